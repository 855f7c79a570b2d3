package main

import (
	"io"
	"os"

	"github.com/sirupsen/logrus"
)

// newLogger returns the logger that the settings ask for, writing to w.
func (s *settings) newLogger(w io.Writer) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(w)
	level, err := logrus.ParseLevel(s.logLevel)
	if err != nil {
		level = logrus.InfoLevel // validate has refused anything else
	}
	log.SetLevel(level)
	if s.logFormatFor(w) == "text" {
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "15:04:05.000", PadLevelText: true})
	} else {
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	}
	return log
}

// logFormatFor is the format for w, which "auto" leaves open.
func (s *settings) logFormatFor(w io.Writer) string {
	switch {
	case s.logFormat != "auto":
		return s.logFormat
	case isTerminal(w):
		return "text"
	default:
		return "json"
	}
}

// isTerminal tells whether w is a character device, as a terminal is.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

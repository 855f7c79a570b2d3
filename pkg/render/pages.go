package render

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Page is an answer in the operator's own words, for what HAProxy answers itself with that status.
type Page struct {
	Status int    // such as 503
	File   string // its name beside the configuration
}

const (
	pageSuffix      = ".html"
	maintenancePage = "maintenance" + pageSuffix
	pagePrefix      = "errors-"
	maxPage         = 14 << 10 // the page and its headers have to fit in a buffer of HAProxy's, which has 16 KiB
)

// statuses are those for which HAProxy takes a page.
//
//nolint:gochecknoglobals // a constant, for which Go has no notation
var statuses = [...]int{400, 401, 403, 404, 405, 407, 408, 410, 413, 425, 429, 500, 501, 502, 503, 504}

// PageName is by which name a file of --set error-dir counts: its own, if it is maintenance.html or one
// such as 503.html; else "".
func PageName(file string) string {
	if file == maintenancePage || statusOf(file) != 0 {
		return file
	}
	return ""
}

// statusOf is the status that a page is for, 0 for none.
func statusOf(file string) int {
	const digits = len("503")
	text, ok := strings.CutSuffix(file, pageSuffix)
	status, err := strconv.ParseUint(text, 10, 16)
	if !ok || err != nil || len(text) != digits {
		return 0
	}
	return int(status)
}

// CheckPage says what is wrong with a page.
func CheckPage(name, text string) error {
	switch status := statusOf(name); {
	case status != 0 && !slices.Contains(statuses[:], status):
		return fmt.Errorf("HAProxy answers nothing with %d: take one of %d", status, statuses)
	case strings.TrimSpace(text) == "":
		return errors.New("it is empty: write the page, or remove the file for HAProxy's own")
	case len(text) > maxPage:
		return fmt.Errorf("it has more than %d bytes, which HAProxy has no room for: link pictures and styles instead", maxPage)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return isControl(r) && !strings.ContainsRune("\n\r\t", r) }):
		return errors.New("it is no plain text in UTF-8: save it as that")
	}
	return nil
}

// pagesOf are the pages for statuses, sorted, and the name of the one for services in maintenance.
func pagesOf(texts map[string]string) (pages []Page, inMaintenance string) {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if status := statusOf(name); status != 0 {
			pages = append(pages, Page{Status: status, File: pagePrefix + name})
		}
	}
	if texts[maintenancePage] != "" {
		inMaintenance = pagePrefix + maintenancePage
	}
	return pages, inMaintenance
}

// pageFiles are the files of the pages.
func pageFiles(texts map[string]string) (files []File) {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		files = append(files, File{Name: pagePrefix + name, Blocks: []Block{NewBlock("page "+name, texts[name])}})
	}
	return files
}

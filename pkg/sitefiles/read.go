package sitefiles

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/pkg/certificates"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// Sizes that a file may have, in bytes.
const (
	largest       = 256 << 10 // of users, or a page
	largestServer = 2 << 20   // about servers: all authorities that a system knows have a quarter of a megabyte
)

// Set is what the files come to.
type Set struct {
	Users map[string]render.UserFile // by file of auth-dir
	Pages map[string]string          // by file of error-dir

	ServerCA, ServerCert render.ServerFile
}

func (s *Set) equal(other *Set) bool {
	return maps.EqualFunc(s.Users, other.Users, render.UserFile.Equal) && maps.Equal(s.Pages, other.Pages) &&
		s.ServerCA == other.ServerCA && s.ServerCert == other.ServerCert
}

// Add puts what is read into what a text is made of.
func (s *Set) Add(in render.Input) render.Input {
	in.Users, in.Pages, in.ServerCA, in.ServerCert = s.Users, s.Pages, s.ServerCA, s.ServerCert
	return in
}

// Read looks at the files that are chosen, once. The error says what is wrong there; the set is what is
// not.
func Read(c render.Choices) (*Set, error) {
	s := newSite(c)
	for range 2 { // what is seen twice counts
		s.look()
	}
	return s.set(), service.Reasons(s.rejections(""))
}

// site is what there may be of files.
type site struct {
	users                folder.Files[[]render.User]
	pages                folder.Files[string]
	serverCA, serverCert folder.Files[string]

	chosen []files // those of them that there are
}

// files are of one kind.
type files interface {
	Look() (changed, moving bool)
	Settled() bool
	Rejections(node string) []service.Rejection
}

func newSite(c render.Choices) *site {
	s := &site{
		users: folder.Files[[]render.User]{
			Folder: folder.Folder{Dir: c.AuthDir, Item: usersName, Largest: largest, Advice: "spread its users over several", Make: "make it, or leave --set auth-dir out"},
			Parse:  parseUsers, Kind: service.RejectedFile, What: "folder",
		},
		pages: folder.Files[string]{
			Folder: folder.Folder{Dir: c.ErrorDir, Item: render.PageName, Largest: largest, Advice: "link pictures and styles instead", Make: "make it, or leave --set error-dir out"},
			Parse:  parsePage, Kind: service.RejectedFile, What: "folder",
		},
		serverCA:   serverFile("server-ca", c.ServerCA, certificates.Authorities),
		serverCert: serverFile("server-cert", c.ServerCert, certificates.Own),
	}
	if c.AuthDir != "" {
		s.chosen = append(s.chosen, &s.users)
	}
	if c.ErrorDir != "" {
		s.chosen = append(s.chosen, &s.pages)
	}
	if c.ServerCA != "" {
		s.chosen = append(s.chosen, &s.serverCA)
	}
	if c.ServerCert != "" {
		s.chosen = append(s.chosen, &s.serverCert)
	}
	return s
}

// serverFile is a file about servers. HAProxy is given its text, not its path.
func serverFile(name, path string, understand func(text string) (string, error)) folder.Files[string] {
	parse := func(file, text string) (string, error) {
		text, err := understand(text)
		if err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
		return text, err
	}
	return folder.Files[string]{
		Folder: folder.Folder{File: path, Largest: largestServer, Advice: "leave those in it that are needed", Make: "put it where the agent runs, which reads it"},
		Parse:  parse, Kind: service.RejectedCertificate, What: "--set " + name,
	}
}

// usersName takes the names that sidekick.auth may have.
func usersName(file string) string {
	if service.ValidateOption("auth", file) != nil {
		return ""
	}
	return file
}

func parseUsers(file, text string) ([]render.User, error) {
	users, err := render.ParseUsers(text)
	if err != nil {
		err = fmt.Errorf("%s: %s", file, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return users, err
}

func parsePage(file, text string) (string, error) {
	if err := render.CheckPage(file, text); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return text, nil
}

// look looks at all that there is.
func (s *site) look() (changed, moving bool) {
	for _, f := range s.chosen {
		c, m := f.Look()
		changed, moving = changed || c, moving || m
	}
	return changed, moving
}

// settled tells whether nothing is being waited for.
func (s *site) settled() bool {
	return !slices.ContainsFunc(s.chosen, func(f files) bool { return !f.Settled() })
}

// set is what counts now. A file that never was good says why there is nothing of it.
func (s *site) set() *Set {
	set := &Set{
		Users: map[string]render.UserFile{}, Pages: maps.Collect(s.pages.Good()),
		ServerCA: serverFileOf(&s.serverCA), ServerCert: serverFileOf(&s.serverCert),
	}
	for file, fault := range s.users.Faults() {
		set.Users[file] = render.UserFile{Why: fault}
	}
	for file, users := range s.users.Good() {
		set.Users[file] = render.UserFile{Users: users}
	}
	return set
}

func serverFileOf(f *folder.Files[string]) (file render.ServerFile) {
	for _, fault := range f.Faults() {
		file.Why = fault
	}
	for _, text := range f.Good() {
		file = render.ServerFile{Text: text}
	}
	return file
}

// rejections are what is wrong with the files.
func (s *site) rejections(node string) []service.Rejection {
	list := []service.Rejection{}
	for _, f := range s.chosen {
		list = append(list, f.Rejections(node)...)
	}
	return list
}

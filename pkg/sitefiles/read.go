package sitefiles

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// largest is the size of a file, in bytes.
const largest = 256 << 10

// Set is what the folders come to.
type Set struct {
	Users map[string]render.UserFile // by file of auth-dir
	Pages map[string]string          // by file of error-dir
}

func (s *Set) equal(other *Set) bool {
	return maps.EqualFunc(s.Users, other.Users, render.UserFile.Equal) && maps.Equal(s.Pages, other.Pages)
}

// Add puts what is read into what a text is made of.
func (s *Set) Add(in render.Input) render.Input {
	in.Users, in.Pages = s.Users, s.Pages
	return in
}

// Read looks at the folders that are chosen, once. The error says what is wrong there; the set is what is
// not.
func Read(c render.Choices) (*Set, error) {
	s := newSite(c)
	for range 2 { // what is seen twice counts
		s.look()
	}
	return s.set(), service.Reasons(s.rejections(""))
}

// site is the folders, of which each may be none.
type site struct {
	users folder.Files[[]render.User]
	pages folder.Files[string]

	chosen []files // those of them that there are
}

// files are those of a folder.
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
	}
	if c.AuthDir != "" {
		s.chosen = append(s.chosen, &s.users)
	}
	if c.ErrorDir != "" {
		s.chosen = append(s.chosen, &s.pages)
	}
	return s
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

// set is what counts now. A file of users that never was good has none, and says why.
func (s *site) set() *Set {
	set := &Set{Users: map[string]render.UserFile{}, Pages: maps.Collect(s.pages.Good())}
	for file, fault := range s.users.Faults() {
		set.Users[file] = render.UserFile{Why: fault}
	}
	for file, users := range s.users.Good() {
		set.Users[file] = render.UserFile{Users: users}
	}
	return set
}

// rejections are what is wrong in the folders.
func (s *site) rejections(node string) []service.Rejection {
	list := []service.Rejection{}
	for _, f := range s.chosen {
		list = append(list, f.Rejections(node)...)
	}
	return list
}

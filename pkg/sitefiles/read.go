package sitefiles

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"

	"github.com/sidekick-proxy/sidekick/internal/folder"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// largest is the size of a file of users, in bytes.
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
	f := newFolders(c)
	var errs []error
	for range 2 { // what is seen twice counts
		f.look()
	}
	for _, r := range f.rejections("") {
		errs = append(errs, errors.New(r.Reason))
	}
	return f.set(), errors.Join(errs...)
}

// folders are the two, of which either may be none.
type folders struct {
	users folder.Files[[]render.User]
	pages folder.Files[string]
}

func newFolders(c render.Choices) *folders {
	return &folders{
		users: folder.Files[[]render.User]{
			Folder: folder.Folder{Dir: c.AuthDir, Item: usersName, Largest: largest, Advice: "spread its users over several"},
			Parse:  parseUsers, Make: "make it, or leave --set auth-dir out",
		},
		pages: folder.Files[string]{
			Folder: folder.Folder{Dir: c.ErrorDir, Item: render.PageName, Largest: largest, Advice: "link pictures and styles instead"},
			Parse:  parsePage, Make: "make it, or leave --set error-dir out",
		},
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

// look looks at the folders that there are.
func (f *folders) look() (changed, moving bool) {
	if f.users.Dir != "" {
		changed, moving = f.users.Look()
	}
	if f.pages.Dir != "" {
		changedToo, movingToo := f.pages.Look()
		changed, moving = changed || changedToo, moving || movingToo
	}
	return changed, moving
}

// known tells whether nothing is being waited for.
func (f *folders) known() bool {
	return (f.users.Dir == "" || f.users.Known() || f.users.Away() != "") && (f.pages.Dir == "" || f.pages.Known() || f.pages.Away() != "")
}

// set is what counts now. A file of users that never was good has none, and says why.
func (f *folders) set() *Set {
	s := &Set{Users: map[string]render.UserFile{}, Pages: maps.Collect(f.pages.Good())}
	for file, fault := range f.users.Faults() {
		s.Users[file] = render.UserFile{Why: fault}
	}
	for file, users := range f.users.Good() {
		s.Users[file] = render.UserFile{Users: users}
	}
	return s
}

// rejections are what is wrong in the folders.
func (f *folders) rejections(node string) []service.Rejection {
	list := []service.Rejection{}
	add := func(name, reason string) {
		if strings.Contains(reason, syscall.EACCES.Error()) {
			reason += "; let the agent's user read it"
		}
		list = append(list, service.Rejection{Kind: service.RejectedFile, Node: node, Name: name, Reason: reason})
	}
	away := func(dir, why string) {
		if dir != "" && why != "" {
			add(dir, "folder "+dir+": "+why)
		}
	}
	away(f.users.Dir, f.users.Away())
	for file, fault := range f.users.Faults() {
		add(file, f.users.Dir+": "+fault)
	}
	away(f.pages.Dir, f.pages.Away())
	for file, fault := range f.pages.Faults() {
		add(file, f.pages.Dir+": "+fault)
	}
	return list
}

package render

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// UserFile is a file of --set auth-dir, which services name by sidekick.auth.
type UserFile struct {
	Users []User
	Why   string // why there is nobody to let in, with the mend; empty if the users count
}

// User is somebody who is let in to a service.
type User struct {
	Name string // free text without a colon
	Hash string // of the password, for crypt(3); a secret
}

// UserList is a list of users as HAProxy knows it.
type UserList struct {
	Name  string // "auth_" and the name of the file
	Users []User // in the order of the file
}

// HAProxy hashes a password with each request, and each user's hash once whenever it reads its
// configuration, and does nothing else in that thread meanwhile.
const (
	maxUsers      = 500
	maxRounds     = 100_000 // of SHA-2: 25 ms
	maxBcryptCost = 10      // 60 ms
)

// hashes are the forms of hashes that the crypt(3) of Debian's HAProxy knows and that are quick enough. It
// takes any other text as well, as a password that nobody has.
//
//nolint:gochecknoglobals // a constant, for which Go has no notation
var hashes = [...]*regexp.Regexp{
	regexp.MustCompile(`^\$1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}$`),
	regexp.MustCompile(`^\$5\$(?:rounds=(\d+)\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{43}$`),
	regexp.MustCompile(`^\$6\$(?:rounds=(\d+)\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}$`),
	regexp.MustCompile(`^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$`),
}

// ParseUsers reads lines of "user:hash", as htpasswd writes them. Blank lines and those that begin with #
// say nothing. Errors name the line and the user, never a hash.
func ParseUsers(text string) ([]User, error) {
	var users []User
	var errs []error
	known := map[string]bool{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		err := cmp.Or(checkUser(name), checkHash(hash))
		if err == nil && known[name] {
			err = errors.New("is there twice: remove one")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: user %.40q %w", number, name, err))
		}
		known[name] = true
		users = append(users, User{Name: name, Hash: hash})
	}
	switch {
	case len(errs) > 0:
		return nil, errors.Join(errs...)
	case len(users) == 0:
		return nil, errors.New("it has no user: add one with htpasswd -5")
	case len(users) > maxUsers:
		return nil, fmt.Errorf("it has more than %d users: HAProxy would take long to read them", maxUsers)
	}
	return users, nil
}

func checkUser(name string) error {
	const most = 255
	if _, err := clean(name); err != nil || name == "" || len(name) > most {
		return fmt.Errorf("has no name of 1 to %d bytes without control characters before the colon", most)
	}
	return nil
}

func checkHash(hash string) error {
	for _, form := range hashes {
		found := form.FindStringSubmatch(hash)
		if found == nil {
			continue
		}
		limit := maxRounds
		if strings.HasPrefix(hash, "$2") {
			limit = maxBcryptCost
		}
		if cost, _ := strconv.Atoi(found[len(found)-1]); len(found) > 1 && found[1] != "" && (cost < 1 || cost > limit) {
			return fmt.Errorf("has a hash of cost %s, and HAProxy would spend that with each request: use at most %d", found[1], limit)
		}
		return nil
	}
	return errors.New("has no hash that HAProxy can check: use htpasswd -5, htpasswd -B or mkpasswd -m sha512crypt")
}

// admission is who is let in to a service.
type admission struct {
	list      string // the only ones: a list of users; empty for everybody
	closed    string // why nobody can be let in, with the mend
	untrusted string // why its servers must not be spoken to, the same
}

// refuses is why nobody gets to its servers, "" if that is not so.
func (a admission) refuses() string { return sentences(a.closed, a.untrusted) }

// admit decides who is let in to a service. What it asks for and what cannot be had closes it: it is never
// served to everybody instead.
func admit(s *service.Service, c Choices, files map[string]UserFile) admission {
	name := s.Spec.Options["auth"]
	file, known := files[name]
	switch {
	case name == "":
		return admission{}
	case modeOf(s) == service.TCP:
		return admission{closed: "sidekick.auth is for mode http without sidekick.tls=passthrough, and nobody is let in without it: remove one of the two labels"}
	case c.AuthDir == "":
		return admission{closed: fmt.Sprintf("sidekick.auth=%s needs a folder with that file, and nobody is let in without it: give the agent --set auth-dir=DIR", name)}
	case !known:
		return admission{closed: fmt.Sprintf("sidekick.auth=%s: there is no such file in %s, and nobody is let in without it: put one there", name, c.AuthDir)}
	case file.Why != "":
		return admission{closed: fmt.Sprintf("sidekick.auth=%s: nobody is let in while the file in %s is as it is: %s", name, c.AuthDir, file.Why)}
	}
	return admission{list: listName(name)}
}

func listName(file string) string { return "auth_" + file }

// userLists are those of the files that services ask for, sorted: HAProxy spends time on each user.
func userLists(services []*Service, files map[string]UserFile) []UserList {
	wanted := map[string]UserList{}
	for _, s := range services {
		if s.Auth != "" {
			wanted[s.Auth] = UserList{Name: s.Auth, Users: files[s.Options["auth"]].Users}
		}
	}
	lists := make([]UserList, 0, len(wanted))
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		lists = append(lists, wanted[name])
	}
	return lists
}

// Equal tells whether two files say the same.
func (f UserFile) Equal(other UserFile) bool {
	return f.Why == other.Why && slices.Equal(f.Users, other.Users)
}

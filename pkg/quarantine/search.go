package quarantine

import (
	"errors"
	"slices"
)

// What a search can end with besides culprits.
var (
	errElsewhere = errors.New("it is refused whatever services are left out") // no suspect is to blame
	errTooLong   = errors.New("the services to blame were not found within the limit of checks")
)

// refusal is what is said against a text.
type refusal struct {
	words string
	hints []int // suspects whose texts it names
}

// trial tells what is said against the text without these suspects, sorted; nil if it is accepted.
type trial func(out []int) (*refusal, error)

// culprit is a suspect that is to blame, and what is said against it.
type culprit struct {
	suspect int
	words   string
}

// searching is the state of search.
type searching struct {
	suspects int
	try      trial
	out      []culprit // in the order in which they were found
}

// search returns suspects without which the text is accepted. With each of them it is not, given that a
// text does not become acceptable by more services; of those that are only bad together the last in order
// are blamed. first is what is said against the text with all suspects.
func search(suspects int, first *refusal, try trial) ([]culprit, error) {
	s := &searching{suspects: suspects, try: try}
	refused, err := s.follow(first)
	if err != nil {
		return nil, err
	}
	named := len(s.out)
	if refused != nil {
		if err := s.halve(refused); err != nil {
			return nil, err
		}
	}
	if err := s.acquit(named); err != nil {
		return nil, err
	}
	slices.SortFunc(s.out, func(a, b culprit) int { return a.suspect - b.suspect })
	return s.out, nil
}

// follow leaves out whom the words name, for as long as they name somebody, and returns what is said then.
func (s *searching) follow(refused *refusal) (*refusal, error) {
	for refused != nil {
		found := false
		for _, hint := range refused.hints {
			if !s.isOut(hint) {
				s.out, found = append(s.out, culprit{hint, refused.words}), true
			}
		}
		if !found {
			break
		}
		var err error
		if refused, err = s.without(nil); err != nil {
			return nil, err
		}
	}
	return refused, nil
}

// halve finds those to blame one after another, by halving the others. refused is what is said with all of
// these.
func (s *searching) halve(refused *refusal) error {
	var rest []int
	for i := range s.suspects {
		if !s.isOut(i) {
			rest = append(rest, i)
		}
	}
	if all, err := s.without(rest); err != nil || all != nil {
		return orElsewhere(err)
	}
	for refused != nil {
		if len(rest) == 0 {
			return errElsewhere // which is accepted was refused a moment ago: it is not a matter of the suspects
		}
		var err error
		if rest, err = s.next(rest, refused); err != nil {
			return err
		}
		if refused, err = s.without(nil); err != nil {
			return err
		}
	}
	return nil
}

// next finds the first one to blame among the rest, given that the text is accepted without all of these, and
// refused with them. It returns those behind it.
func (s *searching) next(rest []int, refused *refusal) ([]int, error) {
	// Without rest[good:] it is accepted, without rest[bad:] it is not.
	good, bad := 0, len(rest)
	for bad-good > 1 {
		middle := (good + bad) / 2
		r, err := s.without(rest[middle:])
		if err != nil {
			return nil, err
		}
		if r == nil {
			good = middle
		} else {
			bad, refused = middle, r
		}
	}
	s.out = append(s.out, culprit{rest[good], refused.words})
	return rest[bad:], nil
}

func orElsewhere(err error) error {
	if err == nil {
		return errElsewhere
	}
	return err
}

// acquit takes back those of the named ones, the first of out, with which the text is accepted as well. When
// the limit is reached the others stay: what is found so far is accepted.
func (s *searching) acquit(named int) error {
	if named < 2 && len(s.out) < 2 { // it alone was left out, and that helped
		return nil
	}
	accused := slices.Clone(s.out[:named])
	slices.SortFunc(accused, func(a, b culprit) int { return a.suspect - b.suspect })
	for _, c := range accused {
		at := slices.IndexFunc(s.out, func(o culprit) bool { return o.suspect == c.suspect })
		all := s.out
		s.out = slices.Delete(slices.Clone(all), at, at+1)
		r, err := s.without(nil)
		switch {
		case errors.Is(err, errTooLong):
			s.out = all
			return nil
		case err != nil:
			return err
		case r != nil:
			s.out = all
			s.out[at].words = r.words // of it alone
		}
	}
	return nil
}

// without tries the text without those that are found and these.
func (s *searching) without(others []int) (*refusal, error) {
	out := slices.Clone(others)
	for _, c := range s.out {
		out = append(out, c.suspect)
	}
	slices.Sort(out)
	return s.try(out)
}

func (s *searching) isOut(suspect int) bool {
	return slices.ContainsFunc(s.out, func(c culprit) bool { return c.suspect == suspect })
}

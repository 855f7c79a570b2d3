package quarantine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/sidekick-proxy/sidekick/pkg/haproxy"
	"github.com/sidekick-proxy/sidekick/pkg/render"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// mostChecks bounds the checks of one search, and then those for what is served in the place of those to
// blame. By halving, three among a thousand are found with 36.
const mostChecks = 64

// Exam finds out why a text is refused.
type Exam struct {
	Renderer *render.Renderer                          // of the template, for this exam alone
	Judge    func(context.Context, render.Files) error // HAProxy's own check: nil, a *haproxy.Refused, or why it could not be done
	Input    render.Input                              // Held are those that were held before
	Retry    []string                                  // of these, the ones that are to be tried again
	Good     []*service.Service                        // served by the last text that was accepted, sorted by name
	Cold     bool                                      // no text was accepted yet, so that there is no Good
	Unproven bool                                      // of this template none was
	Told     *haproxy.Refused                          // what the HAProxy that runs refused after our check, nil if it did not

	all      []*service.Service // the least suspicious first
	suspects []*service.Service // those of them that may be to blame
	files    render.Files       // of the last trial
	checks   int                // that are left
}

// Verdict is what an exam found out.
type Verdict struct {
	Findings []Finding // services that are to be held, also those that stay held
	Cleared  []string  // services that need not be held any more
	Template error     // the template is to blame: what was in force does not pass with it
	Nobody   error     // it is refused, and no service is to blame
}

// Finding is a service that is to be held.
type Finding struct {
	Service *service.Service // as it was examined
	Words   string           // that are said against it
	Failed  bool             // by the template, not by HAProxy
	Good    *service.Service // by whose labels it can be served, nil for none

	bad map[labels]bool // labels of instances with which even that is refused
}

// Run examines. An error means that nothing was found out.
func (e *Exam) Run(ctx context.Context) (Verdict, error) {
	e.Input.Held, e.checks = maps.Clone(e.Input.Held), mostChecks
	for _, name := range e.Retry {
		delete(e.Input.Held, name)
	}
	e.suspect()
	if e.Told != nil {
		return e.told()
	}
	first, err := e.without(ctx, nil)
	if err != nil {
		return Verdict{}, err
	}
	if first == nil {
		return Verdict{Cleared: e.Retry}, nil
	}
	if e.Unproven && !e.Cold {
		if fault, err := e.template(ctx); fault != nil || err != nil {
			return Verdict{Template: fault}, err
		}
	}
	culprits, err := e.search(ctx, first)
	switch {
	case errors.Is(err, errElsewhere), errors.Is(err, errTooLong):
		return Verdict{Nobody: fmt.Errorf("%w: %s", err, first.words)}, nil
	case err != nil:
		return Verdict{}, err
	case e.Cold && 2*len(culprits) > len(e.suspects):
		return Verdict{Nobody: fmt.Errorf("the template is to blame, for most services are refused with it: %s", first.words)}, nil
	}
	return e.verdict(ctx, culprits)
}

// told is the verdict on what the HAProxy that runs refuses and our own check, perhaps of another version, does
// not. Whose lines it names are held: as they were accepted, and if that is what it refuses, not at all. Its
// next word will tell. It spoke of files that may be older than the input: who has another text now is not meant.
func (e *Exam) told() (Verdict, error) {
	files, _, err := e.Renderer.Render(e.Input)
	if err != nil {
		return Verdict{}, err
	}
	e.files = e.Told.Files
	words := e.words(e.Told.Words)
	var v Verdict
	for _, hint := range e.hints(e.Told.Lines) {
		name := e.suspects[hint].Name
		if files.TextOf(name) != e.files.TextOf(name) {
			continue
		}
		f := Finding{Service: e.Input.Catalog.Service(name), Words: words}
		if e.Input.Held[name].As == nil {
			f = f.asBefore(find(e.Good, name))
		}
		v.Findings = append(v.Findings, f)
	}
	return v, nil
}

// template says what is wrong with what was accepted, by the template of now.
func (e *Exam) template(ctx context.Context) (fault, err error) {
	in, catalog := e.Input, *e.Input.Catalog
	catalog.Services, in.Catalog, in.Held = e.Good, &catalog, nil
	refused, err := e.judge(ctx, in)
	if refused == nil || err != nil {
		return nil, err
	}
	return errors.New(refused.words), nil
}

// suspect orders all services, the least suspicious first: by how far they are from what was accepted, and the
// older ones before the younger. Those that are as they were accepted come into question only if there is no
// other, or these are not to blame.
func (e *Exam) suspect() {
	type suspect struct {
		*service.Service

		far int
	}
	var all []suspect
	for _, s := range e.Input.Served() {
		all = append(all, suspect{s, e.distance(s)})
	}
	slices.SortStableFunc(all, func(a, b suspect) int {
		return cmp.Or(cmp.Compare(a.far, b.far), compareAge(a.Service, b.Service))
	})
	for _, s := range all {
		if s.far > 0 {
			e.suspects = append(e.suspects, s.Service)
		}
		e.all = append(e.all, s.Service)
	}
	if len(e.suspects) == 0 {
		e.suspects = e.all
	}
}

// distance is how far a service is from what was accepted.
func (e *Exam) distance(s *service.Service) int {
	good := find(e.Good, s.Name)
	switch {
	case slices.Contains(e.Retry, s.Name):
		return 4 // it was to blame before
	case good == nil:
		return 3
	case good == s:
		return 0
	case definitionOf(good) == definitionOf(s):
		return 1
	default:
		return 2
	}
}

// compareAge orders services by their leading instances, the oldest first.
func compareAge(a, b *service.Service) int {
	if a.Spec.Lead == nil || b.Spec.Lead == nil {
		return 0
	}
	return service.Older(a.Spec.Lead, b.Spec.Lead)
}

// search looks for those to blame among the suspects, and if need be among all.
func (e *Exam) search(ctx context.Context, first *refusal) ([]culprit, error) {
	try := func(out []int) (*refusal, error) { return e.without(ctx, out) }
	culprits, err := search(len(e.suspects), first, try)
	if !errors.Is(err, errElsewhere) || len(e.suspects) == len(e.all) {
		return culprits, err
	}
	e.suspects = e.all
	first, err = e.without(ctx, nil) // for its hints are about these
	if err != nil || first == nil {
		return nil, orElsewhere(err)
	}
	return search(len(e.suspects), first, try)
}

// find returns the service of that name, nil if it is not there.
func find(services []*service.Service, name string) *service.Service {
	at, ok := slices.BinarySearchFunc(services, name, func(s *service.Service, name string) int { return cmp.Compare(s.Name, name) })
	if !ok {
		return nil
	}
	return services[at]
}

// without tries the text without those suspects.
func (e *Exam) without(ctx context.Context, out []int) (*refusal, error) {
	in := e.Input
	in.Held = maps.Clone(in.Held)
	if in.Held == nil {
		in.Held = map[string]render.Held{}
	}
	for _, at := range out {
		in.Held[e.suspects[at].Name] = render.Held{}
	}
	return e.judge(ctx, in)
}

// judge says what is said against the text of an input, nil if it is accepted.
func (e *Exam) judge(ctx context.Context, in render.Input) (*refusal, error) {
	if e.checks == 0 {
		return nil, errTooLong
	}
	e.checks--
	files, _, err := e.Renderer.Render(in)
	if faults, ok := errors.AsType[render.ServiceErrors](err); ok {
		return e.failed(faults), nil
	}
	if err != nil {
		return nil, err
	}
	e.files = files
	err = e.Judge(ctx, files)
	refused, ok := errors.AsType[*haproxy.Refused](err)
	if !ok {
		return nil, err
	}
	return &refusal{words: e.words(refused.Words), hints: e.hints(refused.Lines)}, nil
}

// failed is a template's failure in the text of services.
func (e *Exam) failed(faults render.ServiceErrors) *refusal {
	r := &refusal{words: faults.Error()}
	for _, fault := range faults {
		if at := e.index(fault.Service); at >= 0 {
			r.hints = append(r.hints, at)
		}
	}
	return r
}

// hints are the suspects in whose texts those lines are.
func (e *Exam) hints(lines []int) (hints []int) {
	for _, line := range lines {
		name, _ := e.files.ServiceAt(line)
		if at := e.index(name); at >= 0 && !slices.Contains(hints, at) {
			hints = append(hints, at)
		}
	}
	return hints
}

func (e *Exam) index(name string) int {
	return slices.IndexFunc(e.suspects, func(s *service.Service) bool { return s.Name == name })
}

// place is how HAProxy names a line of a file.
var place = regexp.MustCompile(`\[[^][]*:(\d+)\]`)

// words are HAProxy's. The lines that they name are those of a text that nobody has: they become those of the
// service's part of it.
func (e *Exam) words(said string) string {
	return place.ReplaceAllStringFunc(said, func(found string) string {
		line, _ := strconv.Atoi(place.FindStringSubmatch(found)[1])
		name, within := e.files.ServiceAt(line)
		if name == "" {
			return fmt.Sprintf("[line %d]", line)
		}
		return fmt.Sprintf("[service %s, line %d of its text]", name, within)
	})
}

// verdict holds the culprits, each in the best way that is accepted.
func (e *Exam) verdict(ctx context.Context, culprits []culprit) (Verdict, error) {
	var v Verdict
	for _, c := range culprits {
		v.Findings = append(v.Findings, Finding{Service: e.Input.Catalog.Service(e.suspects[c.suspect].Name), Words: c.words})
	}
	for _, name := range e.Retry {
		if !slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.Service.Name == name }) {
			v.Cleared = append(v.Cleared, name)
		}
	}
	e.checks = mostChecks
	if err := e.treat(ctx, v.Findings); err != nil && !errors.Is(err, errTooLong) {
		return Verdict{}, err
	}
	return v, nil
}

// treat finds out which of those to blame can be served as before, first with all their instances of now.
func (e *Exam) treat(ctx context.Context, findings []Finding) error {
	in := e.Input
	in.Held = maps.Clone(in.Held)
	if in.Held == nil {
		in.Held = map[string]render.Held{}
	}
	for _, f := range findings {
		in.Held[f.Service.Name] = render.Held{}
	}
	for at := range findings {
		f := &findings[at]
		if good := find(e.Good, f.Service.Name); good != nil {
			if err := e.treatOne(ctx, in, f, good); err != nil {
				return err
			}
		}
	}
	return nil
}

// treatOne finds out the way in which one of those that an input leaves out can be served as before, and has it
// served like that there.
func (e *Exam) treatOne(ctx context.Context, in render.Input, f *Finding, good *service.Service) error {
	for _, bad := range ways(f.Service, good) {
		as := asBefore(f.Service, good, bad)
		if as == nil {
			continue
		}
		in.Held[f.Service.Name] = render.Held{As: as}
		refused, err := e.judge(ctx, in)
		if err != nil {
			return err
		}
		if refused == nil {
			f.Good, f.bad = good, bad
			return nil
		}
		in.Held[f.Service.Name] = render.Held{}
	}
	return nil
}

// ways are the sets of labels without whose instances a service may pass by a former definition: none, or those
// that none of its instances had.
func ways(now, good *service.Service) (ways []map[labels]bool) {
	if definitionOf(now) != definitionOf(good) {
		ways = append(ways, nil)
	}
	fresh := map[labels]bool{}
	for _, i := range now.Instances {
		fresh[labelsOf(i)] = true
	}
	for _, i := range good.Instances {
		delete(fresh, labelsOf(i))
	}
	if len(fresh) > 0 {
		ways = append(ways, fresh)
	}
	return ways
}

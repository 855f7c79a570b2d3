package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sidekick-proxy/sidekick/internal/atomicfile"
	"github.com/sidekick-proxy/sidekick/pkg/service"
)

// copyVersion is the version of the format of the copy on disk.
const copyVersion = 1

// copyFile is the format of the copy on disk. The sum is over the catalog's bytes as they stand in
// the file.
type copyFile struct {
	copyHead

	Catalog json.RawMessage `json:"catalog"`
	SHA256  string          `json:"sha256"`
}

// copyHead is what stands before the catalog.
type copyHead struct {
	Version int       `json:"version"`
	Saved   time.Time `json:"saved"`
	Source  string    `json:"source"`
}

// save writes the newest catalog to disk, at most once a second, and less often if the catalog is so
// large that this would cost more than half a percent of a core. One that does not change is written
// again from time to time, because its age counts from when the registry last confirmed it. What
// cannot be written is tried again after a while; it never holds anything up.
func (v *View) save(ctx context.Context, in <-chan *service.Catalog) error {
	const pause, share, retry = time.Second, 200, 10 * time.Second
	var k keeper
	if v.CachePath == "" {
		return drain(ctx, in)
	}
	next := time.NewTimer(0)
	<-next.C
	refresh := time.NewTicker(v.refreshEvery())
	defer refresh.Stop()
	idle := true // nothing was written within the last pause
	for {
		select {
		case k.newest = <-in:
			k.due = true
		case <-refresh.C:
			k.due = k.due || v.confirmedSince(k)
		case <-next.C:
			idle = true
		case <-ctx.Done():
			if k.due || v.confirmedSince(k) {
				v.keepCopy(&k)
			}
			return ctx.Err()
		}
		if !idle || !k.due {
			continue
		}
		idle = false
		began := time.Now()
		if v.keepCopy(&k) {
			next.Reset(max(pause, share*time.Since(began)))
		} else {
			next.Reset(retry)
		}
	}
}

// keeper is what save knows of the copy on disk.
type keeper struct {
	newest  *service.Catalog
	due     bool      // the copy is to be written
	saved   time.Time // the age of the copy
	failing bool
}

// drain takes what comes in until ctx is cancelled.
func drain(ctx context.Context, in <-chan *service.Catalog) error {
	for {
		select {
		case <-in:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refreshEvery is how often the age of an unchanged copy is looked at: often enough that it cannot
// come near the age from which it is not used.
func (v *View) refreshEvery() time.Duration {
	const least, most = time.Second, time.Hour
	if v.MaxCacheAge == 0 {
		return most
	}
	return min(most, max(least, v.MaxCacheAge/8))
}

// confirmedSince tells whether the registry has confirmed the newest catalog after it was written.
func (v *View) confirmedSince(k keeper) bool {
	return k.newest != nil && v.confirmed().After(k.saved)
}

// confirmed is when the registry last confirmed what is known of it.
func (v *View) confirmed() time.Time {
	now := time.Now()
	if v.Confirmed == nil {
		return now
	}
	if at := v.Confirmed(); !at.IsZero() && at.Before(now) {
		return at
	}
	return now
}

// keepCopy writes the copy and tells whether it could.
func (v *View) keepCopy(k *keeper) bool {
	at := v.confirmed()
	if !v.saved(writeCopy(v.CachePath, v.Source, k.newest, at), &k.failing) {
		return false
	}
	k.due, k.saved = false, at
	return true
}

// saved reports how writing went, and logs it when that is news.
func (v *View) saved(err error, failing *bool) bool {
	v.report(err)
	switch {
	case err != nil && !*failing:
		v.Log.WithError(err).Warn("catalog cannot be kept on disk: a restart while the registry is away would find an older one or none")
	case err == nil && *failing:
		v.Log.Info("catalog is kept on disk again")
	}
	*failing = err != nil
	return err == nil
}

// writeCopy writes a catalog, which may be large, as it is encoded. So its sum comes behind it.
func writeCopy(path, source string, c *service.Catalog, at time.Time) error {
	head, err := json.Marshal(copyHead{Version: copyVersion, Saved: at.UTC(), Source: source})
	if err != nil {
		return fmt.Errorf("keep the catalog on disk: %w", err)
	}
	return atomicfile.Write(path, 0o600, func(w io.Writer) error {
		sum := sha256.New()
		_, before := fmt.Fprintf(w, `%s,"catalog":`, bytes.TrimSuffix(head, []byte("}")))
		err := c.Encode(io.MultiWriter(w, sum))
		_, after := fmt.Fprintf(w, `,"sha256":"%x"}`+"\n", sum.Sum(nil))
		return errors.Join(before, err, after)
	})
}

// readCopy reads the copy on disk, and refuses one that is damaged, of another source, of a format
// that is not known, or too old.
func readCopy(path, source string, maxAge time.Duration, now time.Time) (*service.Catalog, time.Time, error) {
	refuse := func(format string, args ...any) (*service.Catalog, time.Time, error) {
		return nil, time.Time{}, fmt.Errorf("copy of the catalog in %s: %w", path, fmt.Errorf(format, args...))
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return refuse("there is none yet: it is written once the registry has answered")
	}
	if err != nil {
		return refuse("%w", err)
	}
	var f copyFile
	if err := json.Unmarshal(b, &f); err != nil {
		return refuse("it is damaged: %w", err)
	}
	age := now.Sub(f.Saved)
	switch {
	case f.Version != copyVersion:
		return refuse("its format is version %d, this program knows %d", f.Version, copyVersion)
	case f.SHA256 != fmt.Sprintf("%x", sha256.Sum256(f.Catalog)):
		return refuse("it is damaged: its checksum does not match")
	case f.Source != source:
		return refuse("it is of %q, not of %q", f.Source, source)
	case maxAge > 0 && age > maxAge:
		return refuse("it is %v old, more than the %v of --max-cache-age", age.Round(time.Second), maxAge)
	}
	c, err := service.ParseFileUnder(source, f.Catalog)
	if err != nil {
		return refuse("%w", err)
	}
	return c, f.Saved, nil
}

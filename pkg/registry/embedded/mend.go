package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

const (
	// lookForAlarms is how often a server looks whether it ran out of its quota. A look costs no request.
	lookForAlarms = time.Second
	// tryAgain is how long it waits when it could not mend that.
	tryAgain = time.Minute
)

// mendQuota makes a server that ran out of its quota writable again, as an administrator would: the
// history is forgotten, the file made small, the alarm taken back. It runs until ctx is done.
func (s *Server) mendQuota(ctx context.Context) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		pause := lookForAlarms
		if s.outOfQuota() {
			if err := s.makeRoom(ctx); err != nil && ctx.Err() == nil {
				s.log.log.WithError(err).Error("the embedded etcd is full and takes no writes")
				pause = tryAgain
			}
		}
		wait.Reset(pause)
	}
}

func (s *Server) outOfQuota() bool {
	for _, alarm := range s.etcd.Server.Alarms() {
		if alarm.GetAlarm() == pb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

// makeRoom fails when what is left after forgetting the history is too much by itself.
func (s *Server) makeRoom(ctx context.Context) error {
	server := s.etcd.Server
	before := server.Backend().Size()
	_, err := server.Compact(ctx, &pb.CompactionRequest{Revision: server.KV().Rev(), Physical: true})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return fmt.Errorf("forget old values: %w", err)
	}
	if err := server.Defragment(); err != nil {
		return fmt.Errorf("make its file small: %w", err)
	}
	size := server.Backend().Size()
	if size > s.quota*9/10 {
		return fmt.Errorf("%d MiB of %d MiB are keys that stand: look with etcdctl who writes them, and delete what nobody needs", size>>20, s.quota>>20)
	}
	_, err = server.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: uint64(server.MemberID()), Alarm: pb.AlarmType_NOSPACE})
	if err != nil {
		return fmt.Errorf("take back the alarm: %w", err)
	}
	s.log.log.WithField("before", before).WithField("after", size).Warn("the embedded etcd was full: its history was forgotten, and it takes writes again")
	return nil
}

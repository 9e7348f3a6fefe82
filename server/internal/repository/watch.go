package repository

import (
	"context"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch calls changed after something has happened at the source and nothing more for the time settle, again and again
// until ctx ends. A file that is being written makes events all the time, so it is let be until it is complete. An error
// is that of the start: a place that can't be watched.
func (s *Source) Watch(ctx context.Context, settle time.Duration, changed func()) error {
	if s.path == "" {
		return nil // the bundled model never changes
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	// A folder and not the file in it: another file that takes its place is another one to the system.
	folder := s.path
	if !s.folder {
		folder = filepath.Dir(s.path)
	}
	if err := watcher.Add(folder); err != nil {
		_ = watcher.Close()
		return err
	}
	s.watchVersions(watcher)
	events := make(chan struct{})
	go s.follow(ctx, watcher, events)
	go whenSettled(ctx, events, settle, changed)
	return nil
}

// follow passes on that something has happened, until ctx ends.
func (s *Source) follow(ctx context.Context, watcher *fsnotify.Watcher, events chan<- struct{}) {
	defer func() { _ = watcher.Close() }()
	for {
		select {
		case event := <-watcher.Events:
			if !s.concerns(event.Name) {
				continue
			}
			s.watchVersions(watcher)
		case err := <-watcher.Errors:
			if err == nil { // it was closed
				return
			}
			// Of an overflow, say: then something may have been missed.
		case <-ctx.Done():
			return
		}
		select {
		case events <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// kubernetesData is the link by which Kubernetes puts new content of a volume in place, all files of it in one step.
const kubernetesData = "..data"

// concerns tells whether what happened to the file may matter. Beside a bare file others may be changing all the time.
func (s *Source) concerns(file string) bool {
	name := filepath.Base(file)
	return s.folder || name == filepath.Base(s.path) || name == kubernetesData
}

// watchVersions adds the folders of the versions. Those that are watched already, or are gone by now, do no harm.
func (s *Source) watchVersions(watcher *fsnotify.Watcher) {
	if !s.folder {
		return
	}
	folders, _ := filepath.Glob(filepath.Join(s.path, "[1-9]*"))
	for _, folder := range folders {
		if _, err := strconv.Atoi(filepath.Base(folder)); err == nil {
			_ = watcher.Add(folder)
		}
	}
}

// whenSettled calls changed when the time settle has passed since the last event.
func whenSettled(ctx context.Context, events <-chan struct{}, settle time.Duration, changed func()) {
	timer := time.NewTimer(settle)
	timer.Stop()
	for {
		select {
		case <-events:
			timer.Reset(settle)
		case <-timer.C:
			changed()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

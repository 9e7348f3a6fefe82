package repository

import (
	"context"
	"path/filepath"
	"strconv"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch calls changed after each change of the source, until ctx is done. A change is ignored until writes settle, that
// is, until nothing has happened for the duration settle, so that no incomplete file is loaded. While changed runs, further
// changes wait. Watch returns an error if the source can't be watched.
func (s *Source) Watch(ctx context.Context, settle time.Duration, changed func()) error {
	if s.path == "" {
		return nil // the bundled model never changes
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	// For a single file, its folder is watched: a watch of the file itself would end when another file replaces it.
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

// follow sends to events whenever something has happened, until ctx is done.
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
			if err == nil { // the watcher was closed
				return
			}
			// After an error, for example an overflow, events may be missing. So the error counts as an event.
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

// kubernetesData is the link that Kubernetes replaces to update all files of a volume in one step.
const kubernetesData = "..data"

// concerns reports whether an event of the file is one of the source. The folder of a single file may contain other files
// that change all the time.
func (s *Source) concerns(file string) bool {
	name := filepath.Base(file)
	return s.folder || name == filepath.Base(s.path) || name == kubernetesData
}

// watchVersions watches the folders of the versions. It ignores errors: a folder may have been deleted meanwhile.
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

// whenSettled calls changed when the duration settle has passed since the last event.
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

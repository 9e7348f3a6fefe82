package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/torchherd/torchherd/server/internal/settings"
)

// WatchOptions are the times of Watch.
type WatchOptions struct {
	// Settle is how long nothing may have happened before a change counts, so that no incomplete file is loaded.
	Settle time.Duration
	// Poll is how often the source is listed, for file systems that don't report changes, such as NFS and FUSE; 0: never. A
	// change that only a listing shows counts when the next listing shows the same.
	Poll time.Duration
}

// Watch calls changed after each change of the source, until ctx is done. Links on the way to the source and inside it are
// followed again when they change. While changed runs, further changes wait. Watch returns an error if the source can be
// neither watched nor polled.
func (s *Source) Watch(ctx context.Context, options WatchOptions, changed func()) error {
	if s.path == "" {
		return nil // the bundled model never changes
	}
	events := make(chan struct{})
	if err := s.startFollowing(ctx, events); err != nil && options.Poll == 0 {
		return err
	}
	if options.Poll > 0 {
		go s.poll(ctx, options.Poll, s.state(), events)
	}
	go whenSettled(ctx, events, options.Settle, changed)
	return nil
}

func (s *Source) startFollowing(ctx context.Context, events chan<- struct{}) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	watched, err := s.watchRoute(watcher)
	if err != nil {
		_ = watcher.Close()
		return err
	}
	go s.follow(ctx, watcher, watched, events)
	return nil
}

// follow sends to events whenever something has happened, until ctx is done.
func (s *Source) follow(ctx context.Context, watcher *fsnotify.Watcher, watched route, events chan<- struct{}) {
	defer func() { _ = watcher.Close() }()
	for {
		select {
		case event := <-watcher.Events:
			if !watched.concerns(event.Name) {
				continue
			}
		case err := <-watcher.Errors:
			if err == nil { // the watcher was closed
				return
			}
			// After an error, for example an overflow, events may be missing. So the error counts as an event.
		case <-ctx.Done():
			return
		}
		// It fails while the source is missing. What remains of its route is watched until it comes back.
		watched, _ = s.watchRoute(watcher)
		if !send(ctx, events) {
			return
		}
	}
}

// send reports whether the event was sent before the end of ctx.
func send(ctx context.Context, events chan<- struct{}) bool {
	select {
	case events <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// A route is where changes of a source can happen: the folders, without links in their paths, and the names in them that
// matter. No names: all matter.
type route map[string][]string

// concerns reports whether an event of the file is one of the source. The folder of a link or of a single file may contain
// other files that change all the time.
func (r route) concerns(file string) bool {
	names, ok := r[filepath.Dir(file)]
	if !ok { // an event of a folder itself, or of one that was on the route
		return true
	}
	return len(names) == 0 || slices.Contains(names, filepath.Base(file))
}

func (r route) all(folder string) { r[folder] = nil }

func (r route) name(folder, name string) {
	if names, ok := r[folder]; (!ok || len(names) > 0) && !slices.Contains(names, name) {
		r[folder] = append(names, name)
	}
}

// maxLinks is the number of links on a path that Linux follows.
const maxLinks = 40

// add adds each link on the way to a path, and the path's own last name. It returns the path without links, as far as it
// exists.
func (r route) add(path string) string {
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		target, err := os.Readlink(next)
		if err == nil {
			r.name(at, name)
			if links++; links > maxLinks {
				return next
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		if len(rest) == 0 || !errors.Is(err, syscall.EINVAL) { // EINVAL: not a link
			r.name(at, name)
		}
		if !errors.Is(err, syscall.EINVAL) {
			return filepath.Join(append([]string{next}, rest...)...)
		}
		at = next
	}
	return at
}

// route returns the source's route as it is now.
func (s *Source) route() route {
	r := route{}
	at := r.add(s.path)
	if !s.folder {
		return r
	}
	r.all(at)
	r.add(filepath.Join(s.path, settings.FileName))
	folders, _ := filepath.Glob(filepath.Join(at, "[1-9]*"))
	for _, folder := range folders {
		if _, err := strconv.Atoi(filepath.Base(folder)); err != nil {
			continue
		}
		if within := r.add(folder); isFolder(within) {
			r.all(within)
		}
		for _, file := range modelFiles {
			r.add(filepath.Join(folder, file))
		}
	}
	return r
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// watchRoute makes the watcher watch the source's route, and returns it. The error is that of the folder which holds the
// source: above it, links can be in folders that must not be read, and a version's folder may have been deleted meanwhile.
func (s *Source) watchRoute(watcher *fsnotify.Watcher) (route, error) {
	r := s.route()
	for {
		for folder := range r {
			_ = watcher.Add(folder)
		}
		// What changed before its folder was watched has caused no event.
		again := s.route()
		if maps.EqualFunc(r, again, slices.Equal) {
			break
		}
		r = again
	}
	watched := watcher.WatchList()
	for _, folder := range watched {
		if _, ok := r[folder]; !ok {
			_ = watcher.Remove(folder)
		}
	}
	at, err := filepath.EvalSymlinks(s.path)
	if err != nil {
		return r, err
	}
	if !s.folder {
		at = filepath.Dir(at)
	}
	if slices.Contains(watched, at) {
		return r, nil
	}
	return r, watcher.Add(at) // returns why it failed
}

// state identifies what the source holds now. It reads the names and fingerprints, and no model file.
func (s *Source) state() string {
	listing, err := s.List()
	return fmt.Sprintf("%+v %v", listing, err)
}

// poll lists the source at intervals, and sends to events when a listing differs from the one before and the next one is
// the same: a file whose size still grows is incomplete.
func (s *Source) poll(ctx context.Context, interval time.Duration, last string, events chan<- struct{}) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	differs := false
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		state := s.state()
		switch {
		case state != last:
			differs, last = true, state
		case differs:
			differs = false
			if !send(ctx, events) {
				return
			}
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

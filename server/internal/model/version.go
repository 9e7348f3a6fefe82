package model

import (
	"strconv"
	"sync"
	"time"

	"github.com/torchherd/torchherd/server/internal/repository"
)

// A State is where a version is in its life.
type State string

// A version goes through these in this order, or ends in Failed before it was Ready.
const (
	Queued   State = "queued"   // another version is being loaded
	Loading  State = "loading"  // its file is being read
	Warming  State = "warming"  // it is being checked, and run at each batch size
	Ready    State = "ready"    // it takes requests
	Draining State = "draining" // it takes none any more, and answers those that it has
	Gone     State = "gone"     // it has answered all, and its memory has been given back
	Failed   State = "failed"   // it can't be served, and never was
)

// ended tells whether nothing comes after the state.
func (s State) ended() bool { return s == Gone || s == Failed }

// An origin is what a version was made from: of the same one comes the same version.
type origin struct {
	file     repository.Version
	settings string // the text of model.yaml
}

func (o origin) same(other origin) bool {
	return o.settings == other.settings && o.file.Same(other.file)
}

// A Version is a model's file as it was when it was loaded.
type Version struct {
	number int
	name   string // the number, as headers have it
	origin origin
	*Model // nil before it is ready

	mu     sync.Mutex
	state  State
	reason error // of Failed
	since  time.Time
	users  int
	idle   *sync.Cond // users has become 0
}

func newVersion(number int, from origin) *Version {
	v := &Version{number: number, name: strconv.Itoa(number), origin: from, state: Queued, since: time.Now()}
	v.idle = sync.NewCond(&v.mu)
	return v
}

// A Status is what is known of a version at one moment.
type Status struct {
	Version int       `json:"version"` // 0: the folder as a whole
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"` // why it failed
	Since   time.Time `json:"since"`            // when it came into its state
}

// String is the version's number: a folder's own; of a bare file the first load has 1, and each further one more.
func (v *Version) String() string { return v.name }

// Status tells where the version is in its life.
func (v *Version) Status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := Status{Version: v.number, State: v.state, Since: v.since}
	if v.reason != nil {
		s.Reason = v.reason.Error()
	}
	return s
}

func (v *Version) enter(state State) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.state, v.since = state, time.Now()
}

func (v *Version) fail(reason error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.state, v.since, v.reason = Failed, time.Now(), reason
}

// use makes the version live until a Release.
func (v *Version) use() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.users++
}

// Release ends the use that an Acquire began.
func (v *Version) Release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.users--; v.users == 0 {
		v.idle.Broadcast()
	}
}

// drain waits for the last use and closes the model.
func (v *Version) drain() error {
	v.mu.Lock()
	for v.users > 0 {
		v.idle.Wait()
	}
	v.mu.Unlock()
	err := v.Close()
	v.enter(Gone)
	return err
}

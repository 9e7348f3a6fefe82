package model

import (
	"strconv"
	"sync"
	"time"
)

// A State is where a version is in its life.
type State string

// A version goes through these in this order, or ends in Failed before it was Ready.
const (
	Queued   State = "queued"   // another version is being loaded
	Loading  State = "loading"  // its file is being read
	Warming  State = "warming"  // it is being checked, and run at each batch size
	Ready    State = "ready"    // it takes the requests
	Draining State = "draining" // it takes none any more, and answers those that it has
	Gone     State = "gone"     // it has answered all, and its memory has been given back
	Failed   State = "failed"   // it can't be served, and never was
)

// A Version is a model's file as it was when it was loaded.
type Version struct {
	number int
	name   string // the number, as headers have it
	*Model        // nil before it is ready

	mu     sync.Mutex
	state  State
	reason error // of Failed
	since  time.Time
	users  int
	idle   *sync.Cond // users has become 0
}

func newVersion(number int) *Version {
	v := &Version{number: number, name: strconv.Itoa(number), state: Queued, since: time.Now()}
	v.idle = sync.NewCond(&v.mu)
	return v
}

// A Status is what is known of a version at one moment.
type Status struct {
	Version int       `json:"version"`
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"` // why it failed
	Since   time.Time `json:"since"`            // when it came into its state
}

// String is the version's number: the first of a model has 1, and each further load one more.
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
	v.enter(Draining)
	v.mu.Lock()
	for v.users > 0 {
		v.idle.Wait()
	}
	v.mu.Unlock()
	err := v.Close()
	v.enter(Gone)
	return err
}

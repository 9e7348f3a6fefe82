package imagecodec_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// Each bomb is decoded, or refused with the reason.
func TestBombs(t *testing.T) {
	c := config()
	c.Grayscale = settings.ToRGB
	codec := newCodec(t, c)
	for _, b := range bombs {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			data := b.file()
			if len(data) > 4<<20 {
				t.Fatalf("%d bytes", len(data))
			}
			_, err := decode(t, codec, data)
			if b.refused == decodes {
				if err != nil {
					t.Error(err)
				}
				return
			}
			text := ""
			if b.refused == imagecodec.TooMuchWork {
				text = "too much work: "
			}
			expectReason(t, err, b.refused, text)
		})
	}
}

// A watchedContext reports that a decode looks at it.
type watchedContext struct {
	context.Context
	calls atomic.Int32
	once  sync.Once
	begun chan struct{}
}

func (c *watchedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.begun) })
	return c.Context.Done()
}

func (c *watchedContext) Err() error {
	if c.calls.Add(1) == 4 { // the first is that of the slot
		c.once.Do(func() { close(c.begun) })
	}
	return c.Context.Err()
}

// A decode ends when its context ends, with the context's cause, before it began or after.
func TestDecodeEndsWithItsContext(t *testing.T) {
	c := config()
	c.Grayscale = settings.ToRGB
	codec := newCodec(t, c)
	left := errors.New("the client left")
	for _, b := range bombs {
		if b.refused != decodes {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			in, err := codec.Prepare(b.file())
			if err != nil {
				t.Fatal(err)
			}
			ended, cancel := context.WithCancelCause(t.Context())
			cancel(left)
			if _, err := codec.Decode(ended, in); !errors.Is(err, left) {
				t.Errorf("with a context that has ended: %v", err)
			}
			parent, cancel := context.WithCancelCause(t.Context())
			watched := &watchedContext{Context: parent, begun: make(chan struct{})}
			go func() {
				<-watched.begun
				cancel(left)
			}()
			if _, err := codec.Decode(watched, in); !errors.Is(err, left) {
				t.Errorf("with a context that ends meanwhile: %v", err)
			}
		})
	}
}

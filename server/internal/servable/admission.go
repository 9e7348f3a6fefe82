package servable

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/torchherd/torchherd/server/internal/batch"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// ErrReceiving is returned while the bodies that are being received leave no memory for another one. A later call may
// succeed.
var ErrReceiving = errors.New("servable: the bodies that are being received use all memory for bodies")

// An admission takes one request to its place in a batch. It refuses what can't be answered before work is spent on it:
//
//	| state              | limited by                                                        | else             |
//	|--------------------|-------------------------------------------------------------------|------------------|
//	| before the body    | the queue is full, or the predicted result comes too late         | *batch.BusyError |
//	| receiving          | the bytes of all bodies                                           | ErrReceiving     |
//	| received           | as before the body; from here on the request has its place        | *batch.BusyError |
//	| waiting for memory | the memory of all decodes, by what the header says, in order      | waits            |
//	| waiting, decoding  | the slots of the codec                                            | waits            |
//	| queued, running    | the place in the queue is given back when the batch starts        | waits            |
//
// While the request is on its way, other requests may wait for it to share a batch: it tells the batcher when it expects
// to be there, by the pace at which its bytes arrive and by how long decodes take.
//
// An admission belongs to one call of Process.
type admission struct {
	servable *Servable
	ctx      context.Context //nolint:containedctx // lives as long as the call
	stages   *Stages
	arrival  *batch.Arrival[shape, *job, error]
	received memory.Reservation
	decoding memory.Reservation
	sent     imagecodec.Image // at its own size, for kinds of output that need it
	metadata imagecodec.Metadata
}

// end gives back all that the request has. It may be called in every state.
func (a *admission) end() {
	if a.arrival != nil {
		a.arrival.Leave()
	}
	a.received.Release()
	a.servable.config.Codec.Recycle(a.sent.Pixels)
	a.decoding.Release()
	a.servable.config.Trimmer.Used()
}

// admit receives and decodes an image that has a place in the queue.
func (a *admission) admit(body io.Reader, o Options) (imagecodec.Image, *parts, error) {
	b := a.servable.batcher
	if err := b.Admissible(a.ctx); err != nil {
		return imagecodec.Image{}, nil, err
	}
	a.arrival = b.Arrive()
	if len(a.servable.config.Parts) > 0 {
		return a.admitParts(body, o)
	}
	img, err := a.admitImage(body, o)
	return img, nil, err
}

// admitImage is the part of admit for a model that takes the image alone.
func (a *admission) admitImage(body io.Reader, o Options) (imagecodec.Image, error) {
	received, err := a.receive(body, o.Length)
	if err != nil {
		return imagecodec.Image{}, err
	}
	defer a.servable.bodies.recycle(received)
	o.Record.add(imageParts[0], received.data)
	if err := a.arrival.Admit(a.ctx); err != nil {
		return imagecodec.Image{}, err
	}
	start := time.Now()
	img, err := a.decode(received.data, o.Format)
	a.stages.Decode = time.Since(start)
	if err == nil {
		a.servable.decoding.add(a.stages.Decode)
	}
	return img, err
}

// receive reads the body.
func (a *admission) receive(body io.Reader, length int64) (*received, error) {
	start := time.Now()
	p := pace{start: start, length: length}
	r, err := a.servable.bodies.read(body, length, a.growReceived, func(received int) {
		if at, known := p.expect(received, time.Now()); known {
			a.arrival.Expect(at.Add(a.decodeTime()), time.Now().Add(stall))
		}
	})
	a.stages.Receive = time.Since(start)
	if err != nil {
		return nil, err
	}
	a.stages.Received = len(r.data)
	return r, nil
}

// decode decodes the image, as soon as there is memory for it. Most models return an image of the size that they get, so an
// image that the response's format can't hold is refused before it costs a forward pass; Encode refuses the others.
func (a *admission) decode(data []byte, format settings.Format) (imagecodec.Image, error) {
	codec := a.servable.config.Codec
	in, err := codec.Prepare(data)
	if err == nil {
		width, height := in.Size()
		if a.servable.config.Settings.OutputKind.NeedsSent() {
			width, height = in.SentSize()
		}
		err = codec.Fits(width, height, format)
	}
	if err != nil {
		return imagecodec.Image{}, err
	}
	expected := time.Now().Add(a.decodeTime())
	a.arrival.Expect(expected, expected)
	if a.decoding, err = a.servable.config.Decoding.Reserve(a.ctx, in.Memory); err != nil {
		return imagecodec.Image{}, err
	}
	var img imagecodec.Image
	if a.servable.config.Settings.OutputKind.NeedsSent() {
		img, a.sent, err = codec.DecodeBoth(a.ctx, in)
	} else {
		img, err = codec.Decode(a.ctx, in)
	}
	a.metadata = codec.Metadata(in)
	memory.ReturnLarge(in.Memory)
	a.decoding.Shrink(in.Held())
	return img, err
}

// decodeTime returns how long a decode may take before it counts as late.
func (a *admission) decodeTime() time.Duration { return 2 * a.servable.decoding.value() }

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
//	| queued, running    | the place in the queue is given back when the batch starts, or    | waits            |
//	|                    | when all of its tiles have left the model                         |                  |
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
	sent     imagecodec.Image   // at its own size, for kinds of output that need it
	frame    imagecodec.Frame   // of the image, once it is decoded
	tiling   *imagecodec.Tiling // nil: the image goes through the model whole
	large    int64              // bytes of what was made after the decode; 0: as little as usual
	metadata imagecodec.Metadata
}

// end gives back all that the request has. It may be called in every state.
func (a *admission) end() {
	if a.arrival != nil {
		a.arrival.Leave()
	}
	a.received.Release()
	a.servable.config.Codec.Recycle(a.sent.Pixels)
	a.sent = imagecodec.Image{}
	memory.ReturnLarge(a.large)
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
	img, err := a.decode(received.data, &o)
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

// decode decodes the image, as soon as there is memory for it.
func (a *admission) decode(data []byte, o *Options) (imagecodec.Image, error) {
	codec := a.servable.config.Codec
	in, err := codec.Prepare(data)
	if err != nil {
		return imagecodec.Image{}, err
	}
	later, err := a.checkResult(in, o)
	if err != nil {
		return imagecodec.Image{}, err
	}
	expected := time.Now().Add(a.decodeTime())
	a.arrival.Expect(expected, expected)
	if a.decoding, err = a.servable.config.Decoding.Reserve(a.ctx, max(in.Memory, in.Held()+later)); err != nil {
		return imagecodec.Image{}, err
	}
	img, err := a.decodeImage(in)
	memory.ReturnLarge(in.Memory)
	a.decoding.Shrink(in.Held() + later)
	return img, err
}

// decodeImage decodes the image, and keeps it as it was sent if the result needs that.
func (a *admission) decodeImage(in *imagecodec.Input) (img imagecodec.Image, err error) {
	codec := a.servable.config.Codec
	a.metadata = codec.Metadata(in)
	if a.servable.config.Settings.OutputKind.NeedsSent() {
		img, a.sent, err = codec.DecodeBoth(a.ctx, in)
		return img, err
	}
	return codec.Decode(a.ctx, in)
}

// checkResult refuses an image whose result can't be made or is too large for the response's format, as far as that is known
// before the model runs; Encode refuses the others. It returns the number of bytes that the request needs after the decode
// for the tiles and the result of a large image, and for a result of another size than the model's.
func (a *admission) checkResult(in *imagecodec.Input, o *Options) (later int64, err error) {
	c := &a.servable.config
	a.frame, a.tiling = in.Frame(), in.Tiling()
	answer := imagecodec.Answer{Size: a.servable.answerSize(o), Scale: a.servable.knownScale()}
	if err := c.Codec.CheckResult(&a.frame, answer, o.Format); err != nil {
		return 0, err
	}
	if a.tiling != nil {
		images := 1
		for i := range c.Parts {
			if c.Parts[i].Codec != nil {
				images++
			}
		}
		later = a.tiling.Memory(a.servable.tilesTogether(), answer.Scale, images)
	}
	if a.tiling != nil || answer.Size != (settings.AnswerSize{}) {
		later += c.Codec.ResultMemory(&a.frame, answer, o.Format)
	}
	a.large = later
	return later, nil
}

// decodeTime returns how long a decode may take before it counts as late.
func (a *admission) decodeTime() time.Duration { return 2 * a.servable.decoding.value() }

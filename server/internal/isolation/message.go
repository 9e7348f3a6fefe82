package isolation

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/torchherd/torchherd/torch"
)

// An operation is what a request asks the child to do.
type operation uint32

// The operations. The numbers are between a program and itself, so they may change.
const (
	opLoad       operation = iota + 1 // JSON: loadRequest; the reply is JSON: loadReply
	opBind                            // go on on a new thread: nice, threads
	opSetThreads                      // threads
	opCheck                           // check that the output for the image at an offset is finite
	opForward                         // run a batch, and write its results if they have the expected shape
	opRead                            // write the results of the last forward to these offsets
	opProbe                           // tests only
)

// maxMessage is the largest message in bytes: a batch of the largest size, with offsets of inputs and results.
const maxMessage = 64 << 10

// maxBatch is the largest number of images in a batch that a message can hold.
const maxBatch = (maxMessage - 64) / 16

// A loadRequest is the request of opLoad.
type loadRequest struct {
	Name       string        `json:"name"`
	Device     string        `json:"device"`
	Precision  int32         `json:"precision"`
	CUDAGraphs bool          `json:"cuda_graphs"`
	Values     torch.Values  `json:"values"`
	Inputs     []torch.Input `json:"inputs"`
	Operators  []string      `json:"operators"` // libraries
	Scratch    string        `json:"scratch"`
	Background bool          `json:"background"`
}

// A loadReply is the reply of opLoad: torch.Info without the device, and what the sandbox lacks.
type loadReply struct {
	Inputs     []string `json:"inputs"`
	Precision  int32    `json:"precision"` // a number: AsCompiled has no text
	Parameters int64    `json:"parameters"`
	Bytes      int64    `json:"bytes"`
	Lacking    []string `json:"lacking"`
}

// A batchRequest is the request of opForward, opRead and opCheck.
type batchRequest struct {
	height, width, channels int      // of an input
	inputs                  []uint64 // offsets in the arena
	outHeight, outWidth     int      // of a result; 0: unknown
	outChannels             int
	outputs                 []uint64 // offsets in the arena; empty: write no results
	parts                   []byte   // the further inputs, as appendParts writes them
}

// append appends the message of a request, in the form of torch.Module.ServeImages.
func (r *batchRequest) append(to []byte, op operation) []byte {
	for _, v := range []int{int(op), r.height, r.width, r.channels, len(r.inputs), r.outHeight, r.outWidth, r.outChannels, len(r.outputs), len(r.parts)} {
		to = binary.LittleEndian.AppendUint32(to, uint32(v))
	}
	for _, offsets := range [][]uint64{r.inputs, r.outputs} {
		for _, offset := range offsets {
			to = binary.LittleEndian.AppendUint64(to, offset)
		}
	}
	return append(to, r.parts...)
}

// parse reads what append has written, without the operation. It reuses the slices.
func (r *batchRequest) parse(from []byte) error {
	const header = 9 * 4
	if len(from) < header {
		return errShort
	}
	var counts [2]int
	var parts int
	for i, to := range []*int{&r.height, &r.width, &r.channels, &counts[0], &r.outHeight, &r.outWidth, &r.outChannels, &counts[1], &parts} {
		*to = int(binary.LittleEndian.Uint32(from[4*i:]))
	}
	from = from[header:]
	if len(from) != 8*(counts[0]+counts[1])+parts {
		return errShort
	}
	r.parts = from[8*(counts[0]+counts[1]):]
	r.inputs, r.outputs = r.inputs[:0], r.outputs[:0]
	for i := range counts[0] + counts[1] {
		offset := binary.LittleEndian.Uint64(from[8*i:])
		if i < counts[0] {
			r.inputs = append(r.inputs, offset)
		} else {
			r.outputs = append(r.outputs, offset)
		}
	}
	return nil
}

var errShort = errors.New("isolation: a message is too short")

// A status begins a reply.
type status uint32

const (
	statusOK      status = iota + 1
	statusPending        // of opForward: the results have another shape than expected; opRead writes them
	statusError          // the rest is JSON: errorReply
)

// A reply is a reply without its text.
type reply struct {
	status                  status
	cpu                     uint64 // nanoseconds of the child's thread
	height, width, channels int    // of the results of opForward
	text                    []byte
}

// append appends the message of a reply, in the form of torch.Module.ServeImages.
func (r *reply) append(to []byte) []byte {
	for _, v := range []int{int(r.status), r.height, r.width, r.channels} {
		to = binary.LittleEndian.AppendUint32(to, uint32(v))
	}
	return append(binary.LittleEndian.AppendUint64(to, r.cpu), r.text...)
}

func (r *reply) parse(from []byte) error {
	const header = 4*4 + 8
	if len(from) < header {
		return errShort
	}
	r.status = status(binary.LittleEndian.Uint32(from))
	for i, to := range []*int{&r.height, &r.width, &r.channels} {
		*to = int(binary.LittleEndian.Uint32(from[4+4*i:]))
	}
	r.cpu = binary.LittleEndian.Uint64(from[16:])
	r.text = from[header:]
	return nil
}

// An errorReply is an error as it crosses to the server: one of package torch with its kind, or else its text.
type errorReply struct {
	Op     string           `json:"op,omitempty"`
	Kind   torch.Kind       `json:"kind,omitempty"`
	Detail string           `json:"detail"`
	Trace  string           `json:"trace,omitempty"`
	Wants  *torch.Dimension `json:"wants,omitempty"`
}

// maxDetail keeps an error's text, which can have a stack trace, within a message.
const maxDetail = 8 << 10

func encodeError(err error) []byte {
	e := errorReply{Detail: err.Error()}
	var failure *torch.Error
	if errors.As(err, &failure) {
		e = errorReply{Op: failure.Op, Kind: failure.Kind, Detail: failure.Detail, Trace: failure.Trace, Wants: failure.Wants}
	}
	if len(e.Detail) > maxDetail {
		e.Detail = e.Detail[:maxDetail] + " ..."
	}
	if len(e.Trace) > maxDetail {
		e.Trace = e.Trace[:maxDetail] + " ..."
	}
	text, err := json.Marshal(e)
	if err != nil {
		return []byte("{}")
	}
	return text
}

func decodeError(text []byte) error {
	var e errorReply
	if err := json.Unmarshal(text, &e); err != nil {
		return fmt.Errorf("isolation: the runner's error: %w", err)
	}
	if e.Op == "" {
		return errors.New(e.Detail)
	}
	return &torch.Error{Op: e.Op, Kind: e.Kind, Detail: e.Detail, Trace: e.Trace, Wants: e.Wants}
}

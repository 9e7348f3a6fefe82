package servable

import (
	"bytes"
	"context"
	"io"
	"slices"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

// A Recording is what one request sent and what came out, so that another version can be run on the same and be compared.
// Its memory is its own. It belongs to one goroutine at a time.
type Recording struct {
	// Result is the image that was encoded for the response; without pixels before that.
	Result imagecodec.Image
	format settings.Format
	size   *settings.AnswerSize // as in Options
	parts  []recordedPart
}

type recordedPart struct {
	name    string
	content []byte
}

// Image returns the bytes of the image as sent; nil: none has arrived. The caller must not change them.
func (r *Recording) Image() []byte {
	for _, part := range r.parts {
		if slices.Contains(imageParts, part.name) {
			return part.content
		}
	}
	return nil
}

// Replay runs a version on what was sent, and returns the image that it would have encoded. Errors: those of
// Servable.Process.
func (r *Recording) Replay(ctx context.Context, process func(context.Context, io.Reader, Options) (Response, error)) (imagecodec.Image, Stages, error) {
	var again Recording
	length := 0
	for _, part := range r.parts {
		length += len(part.content)
	}
	response, err := process(ctx, &replay{parts: r.parts}, Options{Length: int64(length), Format: r.format, Size: r.size, Record: &again})
	if err != nil {
		return imagecodec.Image{}, response.Stages, err
	}
	response.Release()
	return again.Result, response.Stages, nil
}

// add records a part that was received. A nil Recording records nothing.
func (r *Recording) add(name string, content []byte) {
	if r != nil {
		r.parts = append(r.parts, recordedPart{name, bytes.Clone(content)})
	}
}

// finish records the result.
func (r *Recording) finish(result imagecodec.Image, o *Options) {
	if r == nil {
		return
	}
	r.Result, r.format, r.size = result, o.Format, o.Size
	r.Result.Pixels = bytes.Clone(result.Pixels)
}

// A replay is a recorded body. It is a Form; as a reader it is the image.
type replay struct {
	parts []recordedPart
	next  int
	image *bytes.Reader
}

func (r *replay) Read(into []byte) (int, error) {
	if r.image == nil {
		recording := Recording{parts: r.parts}
		r.image = bytes.NewReader(recording.Image())
	}
	return r.image.Read(into)
}

// Next is the method of Form.
func (r *replay) Next() (string, io.Reader, error) {
	if r.next == len(r.parts) {
		return "", nil, io.EOF
	}
	part := r.parts[r.next]
	r.next++
	return part.name, bytes.NewReader(part.content), nil
}

// Value is the method of Form. Numbers from the query were recorded as parts.
func (*replay) Value(string) (string, bool) { return "", false }

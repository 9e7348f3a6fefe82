package servable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/memory"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
)

// A Form is a request's body as its parts.
type Form interface {
	// Next returns the name of the next part and its content, which can be read until the next call. After the last part
	// the error is io.EOF. The name of a body that isn't a form is "image".
	Next() (name string, content io.Reader, err error)
	// Value returns a parameter of the request's query.
	Value(name string) (string, bool)
}

// A PartError says which part of a request is missing, unknown or wrong. Its text is for the client.
type PartError struct {
	Unusable bool // the part is understood, but its value isn't allowed
	Text     string
}

func (e *PartError) Error() string { return e.Text }

// imageParts are the names of the image's part.
var imageParts = []string{"image", "file"}

// maxNumber is the length of a number's text.
const maxNumber = 64

// A Part is an input that requests send beside the image.
type Part struct {
	settings.Input
	// Codec decodes a further image; nil for a number.
	Codec *imagecodec.Codec
}

// parts are the further inputs of a job.
type parts struct {
	images  []imagecodec.Image
	numbers []float64
	key     string // equal for jobs that can share a batch
}

// sent is what a request has sent.
type sent struct {
	image   *received
	images  []*received // for each Part; nil: none
	numbers []float64   // for each Part
	given   []bool      // for each Part
}

// admitParts is the part of admit for a model with further inputs. All bodies are received before one is decoded, so that
// they may come in any order.
func (a *admission) admitParts(body io.Reader, o Options) (imagecodec.Image, *parts, error) {
	got := &sent{
		images:  make([]*received, len(a.servable.config.Parts)),
		numbers: make([]float64, len(a.servable.config.Parts)), given: make([]bool, len(a.servable.config.Parts)),
	}
	defer func() {
		for _, each := range append(got.images, got.image) {
			if each != nil {
				a.servable.bodies.recycle(each)
			}
		}
	}()
	start := time.Now()
	err := a.receiveParts(body, o, got)
	a.stages.Receive = time.Since(start)
	if err != nil {
		return imagecodec.Image{}, nil, err
	}
	if err := a.arrival.Admit(a.ctx); err != nil {
		return imagecodec.Image{}, nil, err
	}
	start = time.Now()
	img, further, err := a.decodeParts(got, &o)
	a.stages.Decode = time.Since(start)
	if err == nil {
		a.servable.decoding.add(a.stages.Decode)
	}
	return img, further, err
}

func (a *admission) receiveParts(body io.Reader, o Options, got *sent) error {
	form, isForm := body.(Form)
	if !isForm {
		form = single{body: body, next: new(bool)}
	}
	p := pace{start: time.Now(), length: o.Length}
	for {
		name, content, err := form.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = a.receivePart(name, content, o, &p, got)
		}
		if err != nil {
			return err
		}
	}
	if got.image == nil {
		return &PartError{Text: "the form has no part image: send one by curl -F image=@photo.jpg"}
	}
	for i, part := range a.servable.config.Parts {
		if text, has := form.Value(part.Name); has && part.Codec == nil && !got.given[i] {
			o.Record.add(part.Name, []byte(text))
			if err := got.setNumber(i, &part, text); err != nil {
				return err
			}
		}
		switch {
		case got.given[i]:
		case part.Required:
			return &PartError{Text: fmt.Sprintf("the part %s is missing: send %s", part.Name, a.servable.partNames())}
		default:
			got.numbers[i] = part.Default
		}
	}
	return nil
}

func (a *admission) receivePart(name string, content io.Reader, o Options, p *pace, got *sent) error {
	at := slices.IndexFunc(a.servable.config.Parts, func(each Part) bool { return each.Name == name })
	switch {
	case at < 0 && !slices.Contains(imageParts, name):
		return &PartError{Text: fmt.Sprintf("unknown part %.64q: send %s", name, a.servable.partNames())}
	case at < 0 && got.image != nil, at >= 0 && got.given[at]:
		return &PartError{Text: fmt.Sprintf("the part %s is there twice", name)}
	case at >= 0 && a.servable.config.Parts[at].Codec == nil:
		text, err := io.ReadAll(io.LimitReader(content, maxNumber+1))
		if err != nil {
			return err
		}
		o.Record.add(name, text)
		return got.setNumber(at, &a.servable.config.Parts[at], string(text))
	}
	before := a.stages.Received
	// The length of a part isn't announced.
	r, err := a.servable.bodies.read(content, min(o.Length, firstBuffer), a.growReceived, func(received int) {
		if when, known := p.expect(before+received, time.Now()); known {
			a.arrival.Expect(when.Add(a.decodeTime()), time.Now().Add(stall))
		}
	})
	if err != nil {
		return err
	}
	o.Record.add(name, r.data)
	a.stages.Received += len(r.data)
	if at < 0 {
		got.image = r
		return nil
	}
	got.images[at], got.given[at] = r, true
	return nil
}

// growReceived takes memory for bodies.
func (a *admission) growReceived(more int) error {
	if !a.received.Grow(a.servable.config.Received, int64(more)) {
		return ErrReceiving
	}
	return nil
}

func (s *sent) setNumber(at int, part *Part, text string) error {
	text = strings.TrimSpace(text)
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || len(text) > maxNumber {
		return &PartError{Unusable: true, Text: fmt.Sprintf("invalid number: %s is %.20q and must be a number", part.Name, text)}
	}
	if err := part.Check(number); err != nil {
		return &PartError{Unusable: true, Text: "invalid number: " + err.Error()}
	}
	s.numbers[at], s.given[at] = number, true
	return nil
}

// partNames lists the parts that a request may have.
func (s *Servable) partNames() string {
	names := []string{imageParts[0]}
	for _, part := range s.config.Parts {
		if name := part.Name; part.Required {
			names = append(names, name)
		} else {
			names = append(names, name+" (optional)")
		}
	}
	return strings.Join(names, ", ")
}

// decodeParts decodes the image and the further ones. The memory for all of them is reserved at once: a request that held
// some while it waits for more could wait for another one that does the same.
func (a *admission) decodeParts(got *sent, o *Options) (imagecodec.Image, *parts, error) {
	c := &a.servable.config
	in, err := c.Codec.Prepare(got.image.data)
	if err != nil {
		return imagecodec.Image{}, nil, err
	}
	later, err := a.checkResult(in, o)
	if err != nil {
		return imagecodec.Image{}, nil, err
	}
	width, height := in.Size()
	inputs := make([]*imagecodec.Input, len(c.Parts))
	need := in.Memory + later
	for i, part := range c.Parts {
		if part.Codec == nil {
			continue
		}
		if got.images[i] == nil {
			w, h := part.size(width, height)
			need += int64(w) * int64(h) * 3
			continue
		}
		if inputs[i], err = part.prepare(got.images[i].data, in); err != nil {
			return imagecodec.Image{}, nil, ofPart(part.Name, err)
		}
		need += inputs[i].Memory
	}
	expected := time.Now().Add(a.decodeTime())
	a.arrival.Expect(expected, expected)
	if a.decoding, err = c.Decoding.Reserve(a.ctx, need); err != nil {
		return imagecodec.Image{}, nil, err
	}
	defer memory.ReturnLarge(need)
	img, err := a.decodeImage(in)
	if err != nil {
		return imagecodec.Image{}, nil, err
	}
	kept := in.Held()
	further := &parts{}
	for i, part := range c.Parts {
		if part.Codec == nil {
			further.numbers = append(further.numbers, got.numbers[i])
			continue
		}
		var decoded imagecodec.Image
		if inputs[i] == nil {
			decoded = part.flat(in)
		} else if decoded, err = part.Codec.Decode(a.ctx, inputs[i]); err != nil {
			c.Codec.Recycle(img.Pixels)
			further.recycle(c.Codec)
			return imagecodec.Image{}, nil, ofPart(part.Name, err)
		}
		further.images = append(further.images, decoded)
		kept += int64(len(decoded.Pixels))
	}
	a.decoding.Shrink(kept + later)
	further.key = further.keyOf(c.Parts)
	return img, further, nil
}

// size returns the size that the part's image has beside an image of a size.
func (p *Part) size(width, height int) (int, int) {
	if p.Size.Keep() {
		return width, height
	}
	return p.Size.Width, p.Size.Height
}

func (p *Part) prepare(data []byte, image *imagecodec.Input) (*imagecodec.Input, error) {
	if p.Size.Keep() {
		return p.Codec.PrepareBeside(data, image)
	}
	return p.Codec.Prepare(data)
}

// flat returns the default image beside an image.
func (p *Part) flat(image *imagecodec.Input) imagecodec.Image {
	width, height := p.size(image.Size())
	img := imagecodec.Image{Width: width, Height: height, Channels: 3}
	if image.Tiling() != nil && p.Size.Keep() { // the model reads the tiles only
		img.Pixels = make([]byte, width*height*3)
	} else {
		img.Pixels = p.Codec.Alloc(width * height * 3)
	}
	for i := range img.Pixels {
		img.Pixels[i] = byte(p.Default)
	}
	return img
}

// ofPart names the part in an error about its image.
func ofPart(name string, err error) error {
	var unusable *imagecodec.Error
	if errors.As(err, &unusable) {
		return &imagecodec.Error{Reason: unusable.Reason, Text: name + ": " + unusable.Text}
	}
	return err
}

// keyOf returns the sizes of the images, and the numbers that must be equal in a batch.
func (p *parts) keyOf(of []Part) string {
	var key []byte
	for _, img := range p.images {
		key = binary.LittleEndian.AppendUint32(key, uint32(img.Width))
		key = binary.LittleEndian.AppendUint32(key, uint32(img.Height))
	}
	next := 0
	for i := range of {
		if of[i].Codec != nil {
			continue
		}
		if !slices.Contains(of[i].Shape, torch.PerItem) {
			key = binary.LittleEndian.AppendUint64(key, math.Float64bits(p.numbers[next]))
		}
		next++
	}
	return string(key)
}

func (p *parts) recycle(codec *imagecodec.Codec) {
	if p == nil {
		return
	}
	for _, img := range p.images {
		codec.Recycle(img.Pixels)
	}
	p.images = nil
}

// appendTo adds an item's further inputs to those of a batch.
func (p *parts) appendTo(batch *torch.Images) {
	if p == nil {
		return
	}
	if batch.Parts == nil {
		batch.Parts = &torch.Parts{Images: make([]torch.Images, len(p.images)), Numbers: make([][]float64, len(p.numbers))}
	}
	for i, img := range p.images {
		to := &batch.Parts.Images[i]
		to.Width, to.Height, to.Channels = img.Width, img.Height, img.Channels
		to.Items = append(to.Items, img.Pixels)
	}
	for i, number := range p.numbers {
		batch.Parts.Numbers[i] = append(batch.Parts.Numbers[i], number)
	}
}

// single is a body that isn't a form: the image.
type single struct {
	body io.Reader
	next *bool // the body has been returned
}

func (s single) Next() (string, io.Reader, error) {
	if *s.next {
		return "", nil, io.EOF
	}
	*s.next = true
	return imageParts[0], s.body, nil
}

func (single) Value(string) (string, bool) { return "", false }

package settings

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/torchherd/torchherd/torch"
)

// Each type below reads itself, from a scalar by UnmarshalText and from other YAML by UnmarshalYAML, and writes itself
// by String in the form that it reads.

// MaxSide is the largest side of an image, in pixels. It is the largest that a JPEG can have.
const MaxSide = 65500

// A Size is the size of an image in pixels. The zero value stands for the image's own size.
type Size struct{ Width, Height int }

// Keep reports whether images keep their own sizes.
func (s Size) Keep() bool { return s == Size{} }

// String returns the size in the form "228x228", or "keep".
func (s Size) String() string {
	if s.Keep() {
		return "keep"
	}
	return fmt.Sprintf("%dx%d", s.Width, s.Height)
}

// MarshalText returns the text of String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads WIDTHxHEIGHT or keep.
func (s *Size) UnmarshalText(text []byte) error {
	if string(text) == "keep" {
		*s = Size{}
		return nil
	}
	width, height, found := strings.Cut(string(text), "x")
	w, errWidth := strconv.Atoi(width)
	h, errHeight := strconv.Atoi(height)
	if !found || errWidth != nil || errHeight != nil || w < 1 || h < 1 || w > MaxSide || h > MaxSide {
		return fmt.Errorf("invalid size %q: use WIDTHxHEIGHT, such as 228x228 (1 to %d a side), or keep", text, MaxSide)
	}
	*s = Size{w, h}
	return nil
}

// A Grayscale is the treatment of grayscale images.
type Grayscale string

// The treatments of grayscale images.
const (
	Refuse Grayscale = "refuse" // the client gets an error
	ToRGB  Grayscale = "rgb"    // three equal channels
)

var grayscales = []Grayscale{Refuse, ToRGB}

// UnmarshalText reads a treatment's name.
func (g *Grayscale) UnmarshalText(text []byte) error { return choose(g, text, grayscales) }

// An EXIF is the treatment of the orientation in an image's EXIF data.
type EXIF string

// The treatments of EXIF orientations.
const (
	Apply  EXIF = "apply" // the image is turned
	Ignore EXIF = "ignore"
)

var exifs = []EXIF{Apply, Ignore}

// UnmarshalText reads a treatment's name.
func (e *EXIF) UnmarshalText(text []byte) error { return choose(e, text, exifs) }

// A Color is the treatment of the colour space that an image states.
type Color string

// The treatments of colour spaces.
const (
	ConvertColor Color = "convert" // to sRGB
	IgnoreColor  Color = "ignore"
)

var colors = []Color{ConvertColor, IgnoreColor}

// UnmarshalText reads a treatment's name.
func (c *Color) UnmarshalText(text []byte) error { return choose(c, text, colors) }

// An AlphaMode is the treatment of an image's alpha. The zero value drops it.
type AlphaMode struct {
	Keep bool     // it is resized beside the image and put back into the result
	Flat bool     // the image is put over a colour
	Over [3]uint8 // the colour, RGB
}

// Drop reports whether the alpha is dropped.
func (a AlphaMode) Drop() bool { return !a.Keep && !a.Flat }

const (
	dropAlpha = "drop"
	keepAlpha = "keep"
	overColor = "over "
)

// String returns "drop", "keep", or "over ffffff".
func (a AlphaMode) String() string {
	switch {
	case a.Keep:
		return keepAlpha
	case a.Flat:
		return overColor + hex.EncodeToString(a.Over[:])
	}
	return dropAlpha
}

// UnmarshalText reads the text of String, also with the colours white and black by name.
func (a *AlphaMode) UnmarshalText(text []byte) error {
	named := map[string]string{"white": "ffffff", "black": "000000"}
	switch t := string(text); t {
	case dropAlpha:
		*a = AlphaMode{}
		return nil
	case keepAlpha:
		*a = AlphaMode{Keep: true}
		return nil
	default:
		if name, found := strings.CutPrefix(t, overColor); found {
			if number, known := named[name]; known {
				name = number
			}
			// A # would begin a comment in YAML, unless the value is quoted.
			rgb, err := hex.DecodeString(strings.TrimPrefix(name, "#"))
			if err == nil && len(rgb) == 3 {
				*a = AlphaMode{Flat: true, Over: [3]uint8(rgb)}
				return nil
			}
		}
	}
	return fmt.Errorf("invalid alpha %q: use drop, keep, or over and a colour, such as over white or over 00ff7f", text)
}

// A Metadata is what a response takes over of what an image has beside its pixels.
type Metadata string

// The choices of metadata.
const (
	NoMetadata     Metadata = "none"
	ColorMetadata  Metadata = "color"            // the colour space
	MostOfMetadata Metadata = "all-but-location" // and EXIF and XMP, without places
)

var metadatas = []Metadata{NoMetadata, ColorMetadata, MostOfMetadata}

// UnmarshalText reads a choice's name.
func (m *Metadata) UnmarshalText(text []byte) error { return choose(m, text, metadatas) }

// A Format is an image format of responses.
type Format string

// The formats of responses.
const (
	AutoFormat Format = "auto" // in Settings only: the one that suits the kind of output
	JPEG       Format = "jpeg" // baseline, 4:2:0
	PNG        Format = "png"
	WebP       Format = "webp" // lossless
	AVIF       Format = "avif" // 4:2:0
)

var formats = []Format{AutoFormat, JPEG, PNG, WebP, AVIF}

// UnmarshalText reads a format's name.
func (f *Format) UnmarshalText(text []byte) error { return choose(f, text, formats) }

// ContentType returns the format's media type.
func (f Format) ContentType() string {
	switch f {
	case PNG:
		return "image/png"
	case WebP:
		return "image/webp"
	case AVIF:
		return "image/avif"
	}
	return "image/jpeg"
}

// A WaitPolicy decides when an incomplete batch waits for more images.
type WaitPolicy string

// The wait policies.
const (
	Adaptive WaitPolicy = "adaptive" // while another request is being received or decoded
	Fixed    WaitPolicy = "fixed"    // always
)

var waitPolicies = []WaitPolicy{Adaptive, Fixed}

// UnmarshalText reads a policy's name.
func (p *WaitPolicy) UnmarshalText(text []byte) error { return choose(p, text, waitPolicies) }

// A Batching says whether images may share a batch.
type Batching string

// The ways of batching.
const (
	BatchIfSafe Batching = "auto"    // batches of one for a model that mixes the images of a batch
	RequireSafe Batching = "require" // such a model isn't served
	NoBatching  Batching = "off"     // batches of one
)

var batchings = []Batching{BatchIfSafe, RequireSafe, NoBatching}

// UnmarshalText reads the name of a way of batching.
func (b *Batching) UnmarshalText(text []byte) error { return choose(b, text, batchings) }

// A WarmUp says what a model is warmed up with.
type WarmUp struct {
	AllBatches bool   // each batch size, not only the largest and one
	Sizes      []Size // of images, with Size.Keep
}

const allBatches = "all"

// String returns the list in the form "[all, 512x384]".
func (w WarmUp) String() string {
	texts := words(w.Sizes...)
	if w.AllBatches {
		texts = append([]string{allBatches}, texts...)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// UnmarshalText reads sizes and the word all, separated by commas, with or without brackets.
func (w *WarmUp) UnmarshalText(text []byte) error {
	list := strings.TrimSuffix(strings.TrimPrefix(string(text), "["), "]")
	if list == "" {
		*w = WarmUp{}
		return nil
	}
	return w.set(strings.Split(list, ","))
}

// UnmarshalYAML reads the text of UnmarshalText, or a list of its parts.
func (w *WarmUp) UnmarshalYAML(read func(any) error) error {
	var list []string
	if read(&list) == nil {
		return w.set(list)
	}
	var text string
	if err := read(&text); err != nil {
		return err
	}
	return w.UnmarshalText([]byte(text))
}

func (w *WarmUp) set(parts []string) error {
	*w = WarmUp{}
	for _, part := range parts {
		if part = strings.TrimSpace(part); part == allBatches {
			w.AllBatches = true
			continue
		}
		var size Size
		if err := size.UnmarshalText([]byte(part)); err != nil || size.Keep() {
			return fmt.Errorf("invalid warm-up %q: use sizes, such as 256x256, and %s for each batch size", part, allBatches)
		}
		w.Sizes = append(w.Sizes, size)
	}
	return nil
}

func choose[T ~string](to *T, text []byte, values []T) error {
	if !slices.Contains(values, T(text)) {
		return fmt.Errorf("%q is not one of %s", text, strings.Join(words(values...), ", "))
	}
	*to = T(text)
	return nil
}

// words returns the texts of an enumeration's values.
func words[T any](values ...T) []string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = fmt.Sprint(value)
	}
	return texts
}

// Devices are the devices that a model runs on, without duplicates. None stands for cuda:0 if there is one, else the CPU.
type Devices []torch.Device

const auto = "auto"

// String returns the devices' names, separated by commas, or "auto".
func (d Devices) String() string {
	if len(d) == 0 {
		return auto
	}
	return strings.Join(words(d...), ",")
}

// MarshalText returns the text of String.
func (d Devices) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads auto, or names separated by commas.
func (d *Devices) UnmarshalText(text []byte) error {
	if string(text) == auto {
		*d = nil
		return nil
	}
	return d.set(strings.Split(string(text), ","))
}

// UnmarshalYAML reads the text of UnmarshalText, or a list of names.
func (d *Devices) UnmarshalYAML(read func(any) error) error {
	var text string
	if read(&text) == nil {
		return d.UnmarshalText([]byte(text))
	}
	var names []string
	if err := read(&names); err != nil {
		return err
	}
	if len(names) == 0 {
		return errors.New("no devices: use auto, cpu or cuda:N")
	}
	return d.set(names)
}

func (d *Devices) set(names []string) error {
	devices := make(Devices, 0, len(names))
	for _, name := range names {
		device, err := torch.NewDevice(name)
		if err != nil {
			return fmt.Errorf("unknown device %q: use auto, cpu, cuda:N, or several of the last two", name)
		}
		if slices.Contains(devices, device) {
			return fmt.Errorf("duplicate device %v: for more copies on one device set instances", device)
		}
		devices = append(devices, device)
	}
	*d = devices
	return nil
}

// A Range is the two numbers that stand for the pixel values 0 and 255. They are finite and differ.
type Range torch.Range

// NewRange returns the range of two numbers.
func NewRange(numbers []float64) (Range, error) {
	if len(numbers) != 2 || numbers[0] == numbers[1] || !finite(numbers) {
		return Range{}, fmt.Errorf("invalid range %v: use two different numbers, such as [-1, 1]", numbers)
	}
	return Range{numbers[0], numbers[1]}, nil
}

// String returns the range in the form "[-1, 1]".
func (r Range) String() string { return fmt.Sprintf("[%v, %v]", r.Low, r.High) }

// UnmarshalYAML reads a list of two numbers.
func (r *Range) UnmarshalYAML(read func(any) error) error {
	var numbers []float64
	err := read(&numbers)
	if err == nil {
		*r, err = NewRange(numbers)
	}
	return err
}

// A Policy chooses the versions of a folder that serve: the latest ones that can be loaded or, if Latest is 0, those with
// the Numbers.
type Policy struct {
	Latest  int
	Numbers []int // sorted, without duplicates
}

const latest = "latest"

// String returns the policy in the form "latest", "latest 3" or "[1, 3]".
func (p Policy) String() string {
	switch p.Latest {
	case 0:
		return "[" + strings.Join(words(p.Numbers...), ", ") + "]"
	case 1:
		return latest
	}
	return latest + " " + strconv.Itoa(p.Latest)
}

// UnmarshalYAML reads "latest", "latest 3" or a list of numbers.
func (p *Policy) UnmarshalYAML(read func(any) error) error {
	var numbers []int
	if read(&numbers) == nil && len(numbers) > 0 && slices.Min(numbers) > 0 {
		slices.Sort(numbers)
		*p = Policy{Numbers: slices.Compact(numbers)}
		return nil
	}
	var text string
	if read(&text) == nil {
		if text == latest {
			*p = Policy{Latest: 1}
			return nil
		}
		number, found := strings.CutPrefix(text, latest+" ")
		if count, err := strconv.Atoi(number); found && err == nil && count > 0 {
			*p = Policy{Latest: count}
			return nil
		}
	}
	return errors.New("invalid versions: use latest, latest 2 (or more), or a list, such as [1, 3]")
}

// A Digest is the SHA-256 of a file: "sha256:" and 64 hexadecimal digits in lower case.
type Digest string

const sha256Prefix = "sha256:"

// NewDigest returns the digest for a SHA-256.
func NewDigest(sum []byte) Digest { return Digest(sha256Prefix + hex.EncodeToString(sum)) }

// UnmarshalText reads a digest.
func (d *Digest) UnmarshalText(text []byte) error {
	digits, found := strings.CutPrefix(string(text), sha256Prefix)
	sum, err := hex.DecodeString(digits)
	if !found || err != nil || len(sum) != 32 || Digest(text) != NewDigest(sum) {
		return fmt.Errorf("invalid digest %q: use sha256: and the sum that sha256sum prints for the file", text)
	}
	*d = Digest(text)
	return nil
}

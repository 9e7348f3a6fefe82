package settings

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Size is the size of pictures in pixels. Both 0: each keeps its own.
type Size struct{ Width, Height int }

// Keep tells whether pictures keep their sizes.
func (s Size) Keep() bool { return s == Size{} }

// String is the size as it is written: "228x228" or "keep".
func (s Size) String() string {
	if s.Keep() {
		return "keep"
	}
	return fmt.Sprintf("%dx%d", s.Width, s.Height)
}

// UnmarshalText reads WIDTHxHEIGHT or keep.
func (s *Size) UnmarshalText(text []byte) error {
	if string(text) == "keep" {
		*s = Size{}
		return nil
	}
	width, height, found := strings.Cut(string(text), "x")
	w, errWidth := strconv.Atoi(width)
	h, errHeight := strconv.Atoi(height)
	if !found || errWidth != nil || errHeight != nil || w < 1 || h < 1 || w > maxSide || h > maxSide {
		return fmt.Errorf("%q is no size; write it like 228x228 (1 to %d a side), or keep", text, maxSide)
	}
	*s = Size{w, h}
	return nil
}

// Words that settings choose from.
type (
	// Filter is how pictures are resized, by Pillow's names.
	Filter string
	// Grayscale is what a grey picture becomes.
	Grayscale string
	// EXIF is what the orientation in a file's EXIF data does.
	EXIF string
	// Channels is an order of a tensor's channels.
	Channels string
	// Format is a format of answers.
	Format string
	// WaitPolicy is when an incomplete batch waits for company; see batch.WaitPolicy.
	WaitPolicy string
	// Precision is what a TorchScript model computes in; see torch.Precision.
	Precision string
)

// The words that code asks for.
const (
	Refuse   Grayscale  = "refuse" // the client gets an error
	ToRGB    Grayscale  = "rgb"    // three equal channels
	Apply    EXIF       = "apply"  // turns the picture
	Ignore   EXIF       = "ignore"
	RGB      Channels   = "rgb"
	Gray     Channels   = "gray"
	Adaptive WaitPolicy = "adaptive"
	Fixed    WaitPolicy = "fixed"
)

// UnmarshalText reads a filter's name.
func (f *Filter) UnmarshalText(text []byte) error {
	return choose(f, text, "bilinear", "nearest", "box", "hamming", "bicubic", "lanczos")
}

// UnmarshalText reads the word.
func (g *Grayscale) UnmarshalText(text []byte) error { return choose(g, text, Refuse, ToRGB) }

// UnmarshalText reads the word.
func (e *EXIF) UnmarshalText(text []byte) error { return choose(e, text, Apply, Ignore) }

// UnmarshalText reads an order's name.
func (c *Channels) UnmarshalText(text []byte) error { return choose(c, text, RGB, "bgr", Gray) }

// UnmarshalText reads a format's name.
func (f *Format) UnmarshalText(text []byte) error { return choose(f, text, "jpeg", "png", "webp") }

// UnmarshalText reads a policy's name.
func (p *WaitPolicy) UnmarshalText(text []byte) error { return choose(p, text, Adaptive, Fixed) }

// UnmarshalText reads a precision's name.
func (p *Precision) UnmarshalText(text []byte) error {
	return choose(p, text, "fp32", "tf32", "bf16", "fp16")
}

func choose[T ~string](to *T, text []byte, words ...T) error {
	if !slices.Contains(words, T(text)) {
		names := make([]string, len(words))
		for i, word := range words {
			names[i] = string(word)
		}
		return fmt.Errorf("%q isn't one of %s", text, strings.Join(names, ", "))
	}
	*to = T(text)
	return nil
}

// Auto is the device that stands for the first CUDA device, or the CPU where there is none.
const Auto = "auto"

// Devices are names of devices, none of them twice.
type Devices []string

// UnmarshalText reads names with commas between them.
func (d *Devices) UnmarshalText(text []byte) error { return d.set(strings.Split(string(text), ",")) }

// UnmarshalYAML reads a name or a list of names.
func (d *Devices) UnmarshalYAML(read func(any) error) error {
	var name string
	if read(&name) == nil {
		return d.set([]string{name})
	}
	var names []string
	if err := read(&names); err != nil {
		return err
	}
	return d.set(names)
}

func (d *Devices) set(names []string) error {
	for i, name := range names {
		kind, number, numbered := strings.Cut(name, ":")
		_, err := strconv.ParseUint(number, 10, 7)
		known := name == "cpu" || name == Auto && len(names) == 1 || kind == "cuda" && (!numbered || err == nil)
		if !known {
			return fmt.Errorf("%q isn't a device; write auto, cpu, cuda:N, or several of the last two", name)
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("the device %s stands there twice; for more copies on one device set instances", name)
		}
	}
	if len(names) == 0 {
		return fmt.Errorf("there is no device; write auto, cpu or cuda:N")
	}
	*d = names
	return nil
}

// A Policy says which versions of a folder are served: the Latest so many that can be served, or, if that is 0, those
// of the Numbers.
type Policy struct {
	Latest  int
	Numbers []int
}

// UnmarshalYAML reads "latest", "latest 3" or a list of versions.
func (p *Policy) UnmarshalYAML(read func(any) error) error {
	var numbers []int
	if read(&numbers) == nil && len(numbers) > 0 && slices.Min(numbers) > 0 {
		slices.Sort(numbers)
		*p = Policy{Numbers: slices.Compact(numbers)}
		return nil
	}
	var text string
	if read(&text) == nil {
		if text == "latest" {
			*p = Policy{Latest: 1}
			return nil
		}
		count, err := strconv.Atoi(strings.TrimPrefix(text, "latest "))
		if err == nil && strings.HasPrefix(text, "latest ") && count > 0 {
			*p = Policy{Latest: count}
			return nil
		}
	}
	return fmt.Errorf("write latest, latest 2 (or more), or a list of versions, such as [1, 3]")
}

// A Digest is "sha256:" and the sum's 64 hexadecimal digits, in lower case.
type Digest string

// UnmarshalText reads a digest.
func (d *Digest) UnmarshalText(text []byte) error {
	digits, found := strings.CutPrefix(string(text), "sha256:")
	if sum, err := hex.DecodeString(digits); !found || err != nil || len(sum) != 32 || digits != strings.ToLower(digits) {
		return fmt.Errorf("%q is no digest; write sha256: and what sha256sum prints for the file", text)
	}
	*d = Digest(text)
	return nil
}

package imagecodec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
	"github.com/torchherd/torchherd/torch"
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

// A watchedContext is cancelled, by another goroutine, when a decode looks at it for the second time, or asks for its Done
// channel in order to watch it.
type watchedContext struct {
	context.Context
	cancel func()
	looks  atomic.Int32
}

func (c *watchedContext) Done() <-chan struct{} {
	c.end()
	return c.Context.Done()
}

func (c *watchedContext) Err() error {
	const ofSlot = 1 // the look before the decode
	if c.looks.Add(1) > ofSlot+1 {
		c.end()
	}
	return c.Context.Err()
}

func (c *watchedContext) end() {
	go c.cancel()
	<-c.Context.Done()
}

// A decode ends when its context ends, with the context's cause, before it began or after.
func TestDecodeEndsWithItsContext(t *testing.T) {
	c := config()
	c.Grayscale = settings.ToRGB
	codec := newCodec(t, c)
	left := errors.New("the client left")
	for _, b := range bombs {
		if b.refused != decodes || b.brief {
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
			defer cancel(nil)
			watched := &watchedContext{Context: parent, cancel: func() { cancel(left) }}
			if _, err := codec.Decode(watched, in); !errors.Is(err, left) {
				t.Errorf("with a context that ends meanwhile: %v", err)
			}
		})
	}
}

// Files of 24 megapixels are accepted in every format, however well they are compressed, and whatever the size of the
// results.
func TestFilesOf24MegapixelsAreAccepted(t *testing.T) {
	t.Parallel()
	const w, h = 6000, 4000
	ordinary := config()
	ordinary.Grayscale = settings.ToRGB
	keep, large := ordinary, ordinary
	keep.Size, keep.ResizeFilter, keep.MaxSide = settings.Size{}, torch.Lanczos, 2048
	large.Size, large.ResizeFilter = settings.Size{Width: 6000, Height: 6000}, torch.Lanczos
	for name, data := range map[string][]byte{
		"baseline JPEG": claim(goldens.Read(t, "pictures/jpeg-420.jpg"), w, h), "progressive JPEG": claim(goldens.Read(t, "pictures/jpeg-progressive.jpg"), w, h),
		"CMYK JPEG": claim(goldens.Read(t, "pictures/jpeg-cmyk.jpg"), w, h),
		"PNG":       pngOf(w, h, 8, 2, 0, zeros(1)), "PNG with alpha": pngOf(w, h, 8, 6, 0, zeros(1)), "interlaced PNG": pngOf(w, h, 8, 2, 1, zeros(1)),
		"AVIF": claimedAVIF(w, h), "GIF": claimingGIF(w, h), "BMP": bmpFile(w, h, 24, 0), "lossy WebP": flatVP8(w, h, 100), "lossless WebP": flatVP8L(w, h),
		"TIFF":         tiffFile{width: w, height: h, rowsPerStrip: h, bits: 8, samples: 3, compression: 5, photometric: 2, predictor: 2, block: make([]byte, 100)}.bytes(),
		"TIFF of rows": tiffFile{width: w, height: h, rowsPerStrip: 1, bits: 8, samples: 3, compression: 8, photometric: 2, block: make([]byte, 100)}.bytes(),
	} {
		for _, size := range []int{len(data), 4<<20 - 1} { // at 4 MiB the bytes take most of what the pixels leave
			padded := slices.Concat(data, make([]byte, size-len(data)))
			for _, c := range []imagecodec.Config{ordinary, keep, large} {
				if _, err := newCodec(t, c).Prepare(padded); err != nil {
					t.Errorf("%s of %d bytes, results of %v: %v", name, size, c.Size, err)
				}
			}
		}
	}
	// Ten scans are what encoders write.
	if _, err := decode(t, newCodec(t, ordinary), progressive(w, h, 9, 3)); err != nil {
		t.Error(err)
	}
}

// compileDecoders decodes a file of each format whose decoder is WebAssembly, which is compiled once.
func compileDecoders(t *testing.T) {
	t.Helper()
	for _, name := range []string{"pictures/webp-lossy.webp", "pictures/tiff.tiff", "formats/avif.avif", "formats/rgb.jp2"} {
		if _, err := decode(t, keeping(t, nil), goldens.Read(t, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// A decode takes no more memory than its Input says, in all heaps together. The resident set shows it.
func TestMemoryIsAnUpperBound(t *testing.T) {
	if instrumented {
		t.Skip("a sanitizer takes memory of its own")
	}
	if os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600) != nil {
		t.Skip("the peak of the resident set can't be reset here")
	}
	c := config()
	c.Grayscale = settings.ToRGB
	keep := c
	keep.Size = settings.Size{}
	files := map[string][]byte{}
	for _, p := range goldens.Load(t).Images {
		files[p.Name] = goldens.Read(t, p.File)
	}
	for _, b := range bombs {
		if b.refused == decodes {
			files[b.name] = b.file()
		}
	}
	compileDecoders(t)
	for _, codec := range []*imagecodec.Codec{newCodec(t, c), newCodec(t, keep)} {
		for name, data := range files {
			in, err := codec.Prepare(data)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			before := quietPeak(t)
			p, err := codec.Decode(t.Context(), in)
			grown := status(t, "VmHWM") - before
			runtime.KeepAlive(p)
			// Beside the decode: garbage, the stacks of threads, and pages of code.
			const slack = 12 << 20
			if err != nil || grown > in.Memory+slack {
				t.Errorf("%s: %d KiB instead of %d, %v", name, grown>>10, in.Memory>>10, err)
			}
		}
	}
}

// quietPeak gives free memory back, resets the peak of the resident set, and returns it.
func quietPeak(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory()
	torch.ReleaseMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600); err != nil {
		t.Fatal(err)
	}
	return status(t, "VmHWM")
}

// status returns a size in bytes from /proc/self/status.
func status(t *testing.T, field string) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := bytes.Cut(text, []byte(field+":"))
	var size int64
	if _, err := fmt.Sscanf(string(after), "%d kB", &size); err != nil {
		t.Fatal(err)
	}
	return size << 10
}

// A result that its format can't hold is refused before it is made.
func TestFits(t *testing.T) {
	codec := newCodec(t, config())
	for _, test := range []struct {
		width, height int
		format        settings.Format
		text          string
	}{
		{65500, 1, settings.JPEG, ""}, {1, 65501, settings.JPEG, "1x65501 pixels is too long for JPEG, whose sides are at most 65500 pixels"},
		{16383, 1, settings.WebP, ""}, {16384, 1, settings.WebP, "16384x1 pixels is too long for WebP, whose sides are at most 16383 pixels"},
		{65536, 300, settings.AVIF, ""}, {65537, 1, settings.AVIF, "65537x1 pixels is too long for AVIF, whose sides are at most 65536 pixels"},
		{6000, 6000, settings.AVIF, "6000x6000 pixels is too large for AVIF, which is made of at most 25165824 pixels"},
		{70000, 1, settings.PNG, ""},
	} {
		err := codec.Fits(test.width, test.height, test.format)
		if test.text != "" {
			expectReason(t, err, imagecodec.TooLong, test.text+": ask for format=png")
		} else if err != nil {
			t.Error(err)
		}
	}
}

// Memory of a giant image isn't kept for the small ones that follow.
func TestGiantMemoryIsNotKept(t *testing.T) {
	codec := newCodec(t, config())
	const giant = 100 << 20
	codec.Recycle(make([]byte, giant))
	if got := cap(codec.Alloc(1)); got == giant {
		t.Errorf("%d bytes for one", got)
	}
}

package imagecodec_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/cpu"
	"github.com/torchherd/torchherd/server/internal/imagecodec"
	"github.com/torchherd/torchherd/server/internal/settings"
)

func FuzzDecode(f *testing.F) {
	for _, p := range goldens.Load(f).Images {
		f.Add(goldens.Read(f, p.File))
	}
	for _, test := range formatCases(f) {
		f.Add(goldens.Read(f, filepath.Join("formats", test.File)))
	}
	f.Add(claimingPNG(1<<31, 3))
	fuzzDecodes(f, func(data []byte) []byte { return data })
}

// The readers of this package, one format each.
func FuzzPNG(f *testing.F)      { fuzzFormat(f, "PNG") }
func FuzzWebP(f *testing.F)     { fuzzFormat(f, "WebP") }
func FuzzAVIF(f *testing.F)     { fuzzFormat(f, "AVIF") }
func FuzzGIF(f *testing.F)      { fuzzFormat(f, "GIF") }
func FuzzBMP(f *testing.F)      { fuzzFormat(f, "BMP") }
func FuzzTIFF(f *testing.F)     { fuzzFormat(f, "TIFF") }
func FuzzJPEG2000(f *testing.F) { fuzzFormat(f, "JPEG 2000") }

// fuzzFormat decodes data that begin as a format does.
func fuzzFormat(f *testing.F, format string) {
	f.Helper()
	const largest = 16 << 10 // bytes of a seed: a small one changes in more ways in the same time
	for _, test := range formatCases(f) {
		if data := goldens.Read(f, filepath.Join("formats", test.File)); test.Format == format && len(data) <= largest {
			f.Add(data)
		}
	}
	fuzzDecodes(f, func(data []byte) []byte {
		var file []byte
		for _, start := range starts {
			if start.name != format {
				continue
			}
			if begins := begun(data, start.bytes); file == nil || bytes.Equal(begins, data) {
				file = begins
			}
		}
		return repaired(file)
	})
}

// fuzzDecodes decodes what prepare makes of the fuzzer's data: the result has the size that was asked for, and each error is for
// the client.
func fuzzDecodes(f *testing.F, prepare func(data []byte) []byte) {
	f.Helper()
	c := config()
	c.MaxPixels, c.Size = 1<<20, settings.Size{Width: 32, Height: 32}
	keep := c
	keep.Alpha.Keep = true
	codecs := []*imagecodec.Codec{newCodec(f, c), newCodec(f, keep)}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = prepare(data)
		for _, codec := range codecs {
			p, err := decode(t, codec, data)
			var failure *imagecodec.Error
			if err != nil && !errors.As(err, &failure) {
				t.Fatalf("an error of another type: %v", err)
			}
			if err == nil && (len(p.Pixels) != 32*32*3 || p.Width != 32 || p.Height != 32) {
				t.Fatalf("%dx%d, %d bytes", p.Width, p.Height, len(p.Pixels))
			}
		}
	})
}

// starts are the first bytes of the formats, by which files are recognized.
var starts = []struct{ name, bytes string }{
	{"JPEG", "\xff\xd8\xff"}, {"PNG", "\x89PNG\r\n\x1a\n"}, {"WebP", "RIFF????WEBPVP8"}, {"GIF", "GIF89a"}, {"AVIF", "????ftypavif"}, {"BMP", "BM"}, {"JPEG 2000", "\xff\x4f\xff\x51"}, {"JPEG 2000", "\x00\x00\x00\x0cjP  \r\n"},
	{"TIFF", "II*\x00"}, {"TIFF", "MM\x00*"}, {"TIFF", "II+\x00"},
}

// begun returns a copy of the data that begins as the format does. '?' keeps the data's byte.
func begun(data []byte, start string) []byte {
	out := append(make([]byte, 0, len(start)), data...)
	for i := range len(start) {
		if i == len(out) {
			out = append(out, 0)
		}
		if start[i] != '?' {
			out[i] = start[i]
		}
	}
	return out
}

// A costRecord is what FuzzWork found: the file of each format that took the most processor time.
type costRecord struct {
	Executions int
	Worst      map[string]costly
	folder     string
	files      map[string][]byte
}

// climb returns the worst file of a format with some bytes changed as the data says: the fuzzer looks for coverage, and this
// for time.
func (r *costRecord) climb(format string, data []byte) []byte {
	out := bytes.Clone(r.files[format])
	const change, most = 4, 8 // bytes of the data for a change: a position, whether it is in the header, a value; changes
	for n := 0; n < most && len(data) >= change && len(out) > 0; n, data = n+1, data[change:] {
		at := int(binary.LittleEndian.Uint16(data))
		if data[2] < 128 {
			at %= 64
		}
		out[at%len(out)] = data[3]
	}
	return out
}

type costly struct {
	Milliseconds float64
	Bytes        int
}

// add counts a decode, and writes the record and the file if that was the longest of its format.
func (r *costRecord) add(format string, data []byte, used time.Duration) error {
	r.Executions++
	longest := used.Seconds()*1000 > r.Worst[format].Milliseconds
	if longest {
		r.Worst[format], r.files[format] = costly{used.Seconds() * 1000, len(data)}, bytes.Clone(data)
	}
	if r.folder == "" || !longest && r.Executions%1000 != 0 {
		return nil
	}
	if longest {
		if err := os.WriteFile(filepath.Join(r.folder, "worst-"+format), data, 0o600); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.folder, fmt.Sprintf("record-%d.json", os.Getpid())), text, 0o600)
}

// FuzzWork looks for files of at most 4 MiB that take long to decode. The budget is one second; the bound is wider, since
// machines differ and do other things. It writes what it found to the folder in TORCHHERD_FUZZ_RECORD, if that is set.
func FuzzWork(f *testing.F) {
	add := func(data []byte) {
		for i, start := range starts {
			if bytes.Equal(begun(data, start.bytes), data) {
				f.Add(uint8(i), data)
			}
		}
	}
	for _, p := range goldens.Load(f).Images {
		add(goldens.Read(f, p.File))
	}
	for _, test := range formatCases(f) {
		add(goldens.Read(f, filepath.Join("formats", test.File)))
	}
	for _, b := range bombs {
		if data := b.file(); len(data) <= 256<<10 {
			add(data)
		}
	}
	c := config()
	c.Grayscale = settings.ToRGB
	codec := newCodec(f, c)
	record := costRecord{Worst: map[string]costly{}, folder: os.Getenv("TORCHHERD_FUZZ_RECORD"), files: map[string][]byte{}}
	const largest, bound = 4 << 20, 4 * time.Second
	f.Fuzz(func(t *testing.T, format uint8, data []byte) {
		start := starts[int(format)%len(starts)]
		for _, file := range [][]byte{data, record.climb(start.name, data)} {
			if len(file) > largest {
				return
			}
			file = repaired(begun(file, start.bytes))
			used := timeToDecode(t, codec, file)
			if used > bound && !instrumented {
				t.Fatalf("%s, %d bytes took %v", start.name, len(file), used)
			}
			if err := record.add(start.name, file, used); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// timeToDecode returns the processor time of a decode, whether it is refused or not.
func timeToDecode(t *testing.T, codec *imagecodec.Codec, file []byte) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := cpu.ThreadTime()
	p, err := decode(t, codec, file)
	used := cpu.ThreadTime() - before
	codec.Recycle(p.Pixels)
	var failure *imagecodec.Error
	if err != nil && !errors.As(err, &failure) {
		t.Fatalf("an error of another type: %v", err)
	}
	return used
}

// repaired returns a file with right checksums of its chunks if it is a PNG: few mutations are decoded without.
func repaired(data []byte) []byte {
	const signature, around = 8, 12
	if len(data) < signature || string(data[:4]) != "\x89PNG" {
		return data
	}
	out := append([]byte(nil), data...)
	for at := signature; len(out)-at >= around; {
		length := int(binary.BigEndian.Uint32(out[at:]))
		if length > len(out)-at-around {
			break
		}
		end := at + 8 + length
		binary.BigEndian.PutUint32(out[end:], crc32.ChecksumIEEE(out[at+4:end]))
		at = end + 4
	}
	return out
}

package imagecodec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/torchherd/torchherd/server/internal/colour"
	"github.com/torchherd/torchherd/torch"
)

// A format is a format of image files, recognized by its first bytes.
type format struct {
	name   string
	starts []string // alternatives; '?' stands for any byte
	header func(data []byte) (header, error)
	decode func(in *Input, s *sink) error // nil for JPEG, which decodeJPEG decodes
	// details reads what the file states beside its pixels; nil: the header has it.
	details func(data []byte) details
	// turned says that the pixels' orientation is a part of the format, and not of EXIF data in it.
	turned bool
}

// A header is what the header of a file tells about its decoding.
type header struct {
	kind          string // of file, for error texts
	width, height int    // as stored
	details       details
	alpha         bool  // the decoder gives it to pushBand if the sink wants that
	alphaMemory   int64 // that this takes in addition, beside bands and a plane of alpha
	alphaWork     picoseconds
	orientation   torch.Orientation
	gray, palette bool
	deep          bool        // 8 bits of RGB don't hold all of a pixel: the decoder converts colours if the sink has a transform
	twoChannels   bool        // a JPEG of a kind that has no colours to speak of
	memory        int64       // bytes that the decoder allocates, without the resize and its result
	work, step    picoseconds // without the resize; step: the longest part that nothing interrupts
	budgets       int         // how many budgets of work the format has; 0: one
	jpeg          torch.JPEGHeader
	png           *pngFile
	tiff          *tiff
	webp          *webp
	avif          *avifFile
	gif           *gifFile
	jpeg2000      *jpeg2000
	bmp           *bmpFile
}

// samples returns how many samples of 16 bits a pixel has whose colours are converted before the resize; 0: it is RGB of 8 bits.
func (h *header) samples() int {
	switch {
	case !h.deep:
		return 0
	case h.tiff != nil && h.tiff.photometric == tiffCMYK:
		return int(colour.CMYK)
	}
	return int(colour.RGB)
}

// advised are the formats that error texts advise in place of what isn't supported.
const advised = "a JPEG or PNG"

const formatNames = "JPEG, PNG, WebP, AVIF, JPEG 2000, GIF, BMP or TIFF"

// memoryOfDecode is the memory of the small objects of a decode: readers, tables and buffers of fixed size.
const memoryOfDecode = 256 << 10

// ftyp is how files of boxes begin (ISO/IEC 14496-12). A brand in the first box tells their format.
const ftyp = "????ftyp"

var formats = []format{
	{name: "JPEG", starts: []string{"\xff\xd8\xff"}, header: jpegHeader, details: jpegDetails},
	{name: "PNG", starts: []string{"\x89PNG\r\n\x1a\n"}, header: pngHeader, decode: decodePNG, details: pngDetails},
	{name: "WebP", starts: []string{"RIFF????WEBPVP8"}, header: webpHeader, decode: decodeWebP, details: webpDetails},
	{name: "AVIF", starts: []string{ftyp}, header: avifHeader, decode: decodeAVIF},
	{name: "HEIC", starts: []string{ftyp}, header: heicHeader, decode: decodeHEIC},
	{name: "JPEG 2000", starts: []string{"\x00\x00\x00\x0cjP  \r\n", "\xff\x4f\xff\x51"}, header: jpeg2000Header, decode: decodeJPEG2000, details: jpeg2000Details},
	{name: "GIF", starts: []string{"GIF87a", "GIF89a"}, header: gifHeader, decode: decodeGIF, details: gifDetails},
	{name: "BMP", starts: []string{"BM????????????"}, header: bmpHeader, decode: decodeBMP},
	{name: "TIFF", starts: []string{"II*\x00", "MM\x00*", "II+\x00", "MM\x00+"}, header: tiffHeader, decode: decodeTIFF, details: tiffDetails, turned: true},
}

// refused are formats that are recognized in order to name them, with what to do in place of sending them.
var refused = []struct{ name, start string }{
	{"JPEG XL", "\xff\x0a"}, {"JPEG XL", "\x00\x00\x00\x0cJXL \r\n"},
	{"Photoshop", "8BPS"}, {"ICO", "\x00\x00\x01\x00"}, {"QOI", "qoif"}, {"JPEG XR", "II\xbc"}, {"EXR", "v/1\x01"}, {"Radiance HDR", "#?RADIANCE"},
	{"PNM", "P1\n"}, {"PNM", "P2\n"}, {"PNM", "P3\n"}, {"PNM", "P4\n"}, {"PNM", "P5\n"}, {"PNM", "P6\n"}, {"PNM", "P7\n"},
	{"PDF", "%PDF-"}, {"SVG", "<svg"}, {"MNG", "\x8aMNG"}, {"DDS", "DDS "}, {"XCF", "gimp xcf"},
}

// refusal returns the error for a file that no decoder is for.
func refusal(data []byte) error {
	if len(data) == 0 {
		return &Error{UnknownFormat, "the body is empty: send the image as the request body (" + formatNames + ")"}
	}
	name := isobmffKind(data)
	if bytes.HasSuffix(data, []byte("TRUEVISION-XFILE.\x00")) { // the end is all that a TGA is known by
		name = "TGA"
	}
	for _, r := range refused {
		if name == "" && startsWith(data, r.start) {
			name = r.name
		}
	}
	if name == "HEIC" {
		return &Error{UnknownFormat, "the format HEIC isn't supported here: send " + formatNames + ", or ask the operator for --heic=system"}
	}
	if name != "" {
		return &Error{UnknownFormat, "the format " + name + " isn't supported: send " + formatNames}
	}
	return &Error{UnknownFormat, "unknown image format: send " + formatNames}
}

// sniff returns the format of a file, or nil if it is unknown. It ignores the Content-Type, as the Sanic demo does: curl -T
// sends none.
func sniff(data []byte) *format {
	for i := range formats {
		for _, start := range formats[i].starts {
			if startsWith(data, start) && (start != ftyp || isobmffKind(data) == formats[i].name) {
				return &formats[i]
			}
		}
	}
	return nil
}

func startsWith(data []byte, start string) bool {
	if len(data) < len(start) {
		return false
	}
	for i := range len(start) {
		if start[i] != '?' && start[i] != data[i] {
			return false
		}
	}
	return true
}

func jpegHeader(data []byte) (header, error) {
	read, err := torch.ReadJPEGHeader(data)
	if err != nil {
		var failure *torch.Error
		if errors.As(err, &failure) {
			err = errors.New(failure.Detail)
		}
		if what := unsupportedJPEG(data); what != "" {
			err = unsupported("JPEG", what)
		}
		return header{}, err
	}
	h := header{
		kind: "a JPEG", width: read.Width, height: read.Height, orientation: torch.Upright,
		gray: read.Channels == 1, twoChannels: read.Channels == 2, memory: read.Memory, jpeg: read,
	}
	per, perByte := perHuffman, perJPEGByte
	if read.Arithmetic {
		h.kind, per, perByte = "an arithmetic-coded JPEG", perArithmetic, perArithmeticByte
	}
	// A row of blocks is decoded without interruption. A component has up to four rows of blocks beside each other.
	h.step = picoseconds(read.Blocks/int64(max(1, (read.Height+31)/32))) * per
	h.work = picoseconds(len(data))*perByte + picoseconds(read.Blocks+torch.JPEGScanBlocks)*per +
		picoseconds(read.Width*read.Height)*perJPEGPixel
	return h, nil
}

// unsupportedJPEG returns what a JPEG has that libjpeg-turbo may not decode, or "".
func unsupportedJPEG(data []byte) string {
	switch frame, bits := frameOfJPEG(data); frame {
	case 0:
		return ""
	case 0xc3, 0xcb:
		return "lossless compression"
	case 0xc5, 0xc6, 0xc7, 0xcd, 0xce, 0xcf:
		return "a hierarchy of sizes"
	default:
		if bits != 8 {
			return fmt.Sprintf("samples of %d bits", bits)
		}
		return ""
	}
}

// frameOfJPEG returns the marker that starts the frame of a JPEG, which tells its kind (ITU-T T.81, table B.1), and the bits of
// its samples. 0: there is none before the pixels.
func frameOfJPEG(data []byte) (marker, bits byte) {
	for at := 2; at+5 <= len(data) && data[at] == 0xff; {
		switch marker := data[at+1]; {
		case marker == 0xff:
			at++
			continue
		case marker == 0xd9 || marker == 0xda:
			return 0, 0
		case marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc:
			return marker, data[at+4]
		}
		at += 2 + int(binary.BigEndian.Uint16(data[at+2:]))
	}
	return 0, 0
}

// rowsWork returns the work of converting rows to RGB and handing them to the resize.
func rowsWork(width, height int) picoseconds {
	return picoseconds(height)*perRow + picoseconds(width)*picoseconds(height)*(perPixel+perConverted)
}

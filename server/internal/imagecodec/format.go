package imagecodec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/gif"

	"golang.org/x/image/bmp"

	"github.com/torchherd/torchherd/torch"
)

// A format is a format of image files, recognized by its first bytes.
type format struct {
	name   string
	starts []string // alternatives; '?' stands for any byte
	header func(data []byte) (header, error)
	decode func(in *Input, s *sink) error // nil for JPEG, which decodeJPEG decodes
	// details reads what the file states beside its pixels; nil: nothing.
	details func(data []byte) details
	// turned says that the pixels' orientation is a part of the format, and not of EXIF data in it.
	turned bool
}

// A header is what the header of a file tells about its decoding.
type header struct {
	kind          string // of file, for error texts
	width, height int    // as stored
	details       details
	alpha         bool // the decoder calls pushWithAlpha if the sink wants that
	orientation   torch.Orientation
	gray, palette bool
	twoChannels   bool        // a JPEG of a kind that has no colours to speak of
	memory        int64       // bytes that the decoder allocates, without the resize and its result
	work, step    picoseconds // without the resize; step: the longest part that nothing interrupts
	jpeg          torch.JPEGHeader
	png           *pngFile
	tiff          *tiff
	webp          *webp
}

const formatNames = "JPEG, PNG, WebP, GIF, BMP or TIFF"

// memoryOfDecode is the memory of the small objects of a decode: readers, tables and buffers of fixed size.
const memoryOfDecode = 256 << 10

var formats = []format{
	{name: "JPEG", starts: []string{"\xff\xd8\xff"}, header: jpegHeader, details: jpegDetails},
	{name: "PNG", starts: []string{"\x89PNG\r\n\x1a\n"}, header: pngHeader, decode: decodePNG, details: pngDetails},
	{name: "WebP", starts: []string{"RIFF????WEBPVP8"}, header: webpHeader, decode: decodeWebP, details: webpDetails},
	{name: "GIF", starts: []string{"GIF87a", "GIF89a"}, header: gifHeader, decode: decodeGIF, details: gifDetails},
	{name: "BMP", starts: []string{"BM????\x00\x00\x00\x00"}, header: bmpHeader, decode: decodeBMP},
	{name: "TIFF", starts: []string{"II*\x00", "MM\x00*"}, header: tiffHeader, decode: decodeTIFF, details: tiffDetails, turned: true},
}

// sniff returns the format of a file, or nil if it is unknown. It ignores the Content-Type, as the Sanic demo does: curl -T
// sends none.
func sniff(data []byte) *format {
	for i := range formats {
		for _, start := range formats[i].starts {
			if startsWith(data, start) {
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

// rowsWork returns the work of converting rows to RGB and handing them to the resize.
func rowsWork(width, height int) picoseconds {
	return picoseconds(height)*perRow + picoseconds(width)*picoseconds(height)*(perPixel+perConverted)
}

func gifHeader(data []byte) (header, error) {
	config, err := gif.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return header{}, err
	}
	h := header{kind: "a GIF", width: config.Width, height: config.Height, orientation: torch.Upright, palette: true}
	pixels := int64(h.width) * int64(h.height)
	h.memory = 3 * pixels // the frame, its rows in order if they are interlaced, and the frame within its area
	h.work = rowsWork(h.width, h.height) + picoseconds(len(data))*perGIFByte + picoseconds(pixels)*perGIFPixel
	h.step = picoseconds(pixels) * (nanosecond / 2) // the check of the colours
	return h, nil
}

// decodeGIF decodes a GIF's first frame, extended to the GIF's whole area.
func decodeGIF(in *Input, s *sink) error {
	frame, err := gif.Decode(&reader{s, in.data})
	if err != nil {
		return err
	}
	area := image.Rect(0, 0, in.header.width, in.header.height)
	paletted, ok := frame.(*image.Paletted)
	if !ok || frame.Bounds() == area {
		return s.pushImage(frame)
	}
	whole := image.NewPaletted(area, paletted.Palette)
	bounds := paletted.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		from := paletted.Pix[paletted.PixOffset(bounds.Min.X, y):][:bounds.Dx()]
		copy(whole.Pix[whole.PixOffset(bounds.Min.X, y):], from)
	}
	return s.pushImage(whole)
}

func bmpHeader(data []byte) (header, error) {
	config, err := bmp.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return header{}, err
	}
	const depthAt = 28
	depth := int64(binary.LittleEndian.Uint16(data[depthAt:]))
	h := header{kind: "a BMP", width: config.Width, height: config.Height, orientation: torch.Upright, palette: depth <= 8}
	ofPixel := int64(4)
	if h.palette {
		ofPixel = 1
	}
	row := int64(h.width)*max(depth, 8)/8 + 4 // a palette's indices are unpacked to bytes
	h.memory = ofPixel*int64(h.width)*int64(h.height) + row
	h.step = picoseconds(row) * perBMPByte
	h.work = rowsWork(h.width, h.height) + picoseconds(row)*picoseconds(h.height)*perBMPByte
	return h, nil
}

func decodeBMP(in *Input, s *sink) error {
	img, err := bmp.Decode(&reader{s, in.data})
	if err != nil {
		return err
	}
	return s.pushImage(img)
}

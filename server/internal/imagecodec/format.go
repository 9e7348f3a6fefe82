package imagecodec

import (
	"errors"

	"github.com/torchherd/torchherd/torch"
)

// A format is a format of image files, recognized by its first bytes.
type format struct {
	name   string
	starts []string // alternatives; '?' stands for any byte
	header func(data []byte) (header, error)
	decode func(in *Input, s *sink) error // nil for JPEG, which decodeJPEG decodes
}

// A header is what the header of a file tells about its decoding.
type header struct {
	kind          string // of file, for error texts
	width, height int    // as stored
	orientation   torch.Orientation
	gray, palette bool
	twoChannels   bool        // a JPEG of a kind that has no colours to speak of
	memory        int64       // bytes that the decoder allocates, without the resize and its result
	work, step    picoseconds // without the resize; step: the longest part that nothing interrupts
	jpeg          torch.JPEGHeader
	png           *pngFile
	tiff          *tiff
	webp          *webp
	gif           *gifFile
	bmp           *bmpFile
}

// advised are the formats that error texts advise in place of what isn't supported.
const advised = "a JPEG or PNG"

const formatNames = "JPEG, PNG, WebP, GIF, BMP or TIFF"

// memoryOfDecode is the memory of the small objects of a decode: readers, tables and buffers of fixed size.
const memoryOfDecode = 256 << 10

var formats = []format{
	{name: "JPEG", starts: []string{"\xff\xd8\xff"}, header: jpegHeader},
	{name: "PNG", starts: []string{"\x89PNG\r\n\x1a\n"}, header: pngHeader, decode: decodePNG},
	{name: "WebP", starts: []string{"RIFF????WEBPVP8"}, header: webpHeader, decode: decodeWebP},
	{name: "GIF", starts: []string{"GIF87a", "GIF89a"}, header: gifHeader, decode: decodeGIF},
	{name: "BMP", starts: []string{"BM????????????"}, header: bmpHeader, decode: decodeBMP},
	{name: "TIFF", starts: []string{"II*\x00", "MM\x00*", "II+\x00", "MM\x00+"}, header: tiffHeader, decode: decodeTIFF},
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
		kind: "a JPEG", width: read.Width, height: read.Height, orientation: read.Orientation,
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

package imagecodec

import (
	"bytes"
	"image"
	"image/gif"
	"image/png"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"
)

// A format is a format of image files, recognized by its first bytes.
type format struct {
	name   string
	starts []string // alternatives; '?' stands for any byte
	header func(data []byte) (image.Config, error)
	decode func(data []byte) (image.Image, error) // nil for JPEG, which decodeJPEG decodes
	gray   func(data []byte) bool                 // nil: the type of the decoded image shows it
}

const formatNames = "JPEG, PNG, WebP, GIF, BMP or TIFF"

var formats = []format{
	{name: "JPEG", starts: []string{"\xff\xd8\xff"}},
	{
		name: "PNG", starts: []string{"\x89PNG\r\n\x1a\n"}, gray: grayPNG,
		header: func(data []byte) (image.Config, error) { return png.DecodeConfig(bytes.NewReader(data)) },
		decode: func(data []byte) (image.Image, error) { return png.Decode(bytes.NewReader(data)) },
	},
	{
		name: "WebP", starts: []string{"RIFF????WEBPVP8"},
		header: func(data []byte) (image.Config, error) { return webp.DecodeConfig(bytes.NewReader(data)) },
		decode: func(data []byte) (image.Image, error) { return webp.Decode(bytes.NewReader(data)) },
	},
	{
		name: "GIF", starts: []string{"GIF87a", "GIF89a"},
		header: func(data []byte) (image.Config, error) { return gif.DecodeConfig(bytes.NewReader(data)) },
		decode: decodeGIF,
	},
	{
		name: "BMP", starts: []string{"BM????\x00\x00\x00\x00"},
		header: func(data []byte) (image.Config, error) { return bmp.DecodeConfig(bytes.NewReader(data)) },
		decode: func(data []byte) (image.Image, error) { return bmp.Decode(bytes.NewReader(data)) },
	},
	{
		name: "TIFF", starts: []string{"II*\x00", "MM\x00*"},
		header: func(data []byte) (image.Config, error) { return tiff.DecodeConfig(bytes.NewReader(data)) },
		decode: func(data []byte) (image.Image, error) { return tiff.Decode(bytes.NewReader(data)) },
	},
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

// grayPNG reports whether a PNG is grayscale, with or without alpha (colour types 0 and 4). The decoder can
// return RGBA for it, so the type of the decoded image does not show it. The colour type is in the IHDR chunk, always the
// first.
func grayPNG(data []byte) bool {
	const at = 25
	return len(data) > at && data[at]&2 == 0
}

// decodeGIF returns a GIF's first frame, extended to the GIF's whole area.
func decodeGIF(data []byte) (image.Image, error) {
	frame, err := gif.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	config, err := gif.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	area := image.Rect(0, 0, config.Width, config.Height)
	paletted, ok := frame.(*image.Paletted)
	if !ok || frame.Bounds() == area {
		return frame, nil
	}
	whole := image.NewPaletted(area, paletted.Palette)
	bounds := paletted.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		from := paletted.Pix[paletted.PixOffset(bounds.Min.X, y):][:bounds.Dx()]
		copy(whole.Pix[whole.PixOffset(bounds.Min.X, y):], from)
	}
	return whole, nil
}

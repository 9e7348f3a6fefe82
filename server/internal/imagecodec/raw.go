package imagecodec

import (
	"image"
	"image/color"
)

// raw is a decoded image in the form that torch.Resize takes.
type raw struct {
	width, height int
	channels      int // 3, or 4 with an ignored last one
	pixels        []byte
}

func isGray(img image.Image) bool {
	switch img.(type) {
	case *image.Gray, *image.Gray16, *image.Alpha, *image.Alpha16:
		return true
	}
	return false
}

func isPalette(img image.Image) bool {
	_, ok := img.(*image.Paletted)
	return ok
}

// toRaw drops an image's alpha. A transparent pixel keeps its colour, as in the book that the Sanic demo is from.
func toRaw(img image.Image) raw {
	bounds := img.Bounds()
	r := raw{width: bounds.Dx(), height: bounds.Dy(), channels: 4}
	switch img := img.(type) {
	case *image.NRGBA:
		if img.Stride == 4*r.width {
			r.pixels = img.Pix[:4*r.width*r.height]
			return r
		}
	case *image.RGBA:
		// The decoders use this type for opaque images, where premultiplied colours equal the colours.
		if img.Stride == 4*r.width && img.Opaque() {
			r.pixels = img.Pix[:4*r.width*r.height]
			return r
		}
	}
	r.channels = 3
	r.pixels = make([]byte, 3*r.width*r.height)
	switch img := img.(type) {
	case *image.Gray:
		fromGray(r.pixels, img.Pix, img.Stride, r.width, 1)
	case *image.Gray16: // big-endian; reduced to the upper 8 bits, as colours are
		fromGray(r.pixels, img.Pix, img.Stride, r.width, 2)
	case *image.Paletted:
		fromPalette(r.pixels, img)
	case *image.NRGBA64:
		highBytes(r.pixels, img.Pix)
	case *image.RGBA64:
		highBytes(r.pixels, img.Pix)
	case *image.YCbCr:
		fromWebP(r.pixels, img)
	case *image.NYCbCrA:
		fromWebP(r.pixels, &img.YCbCr)
	default:
		out := r.pixels
		for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
			for x := bounds.Min.X; x < bounds.Max.X; x++ {
				c := rgb(img.At(x, y))
				copy(out, c[:])
				out = out[3:]
			}
		}
	}
	return r
}

// rgb returns a colour without its alpha.
func rgb(c color.Color) [3]byte {
	n, ok := c.(color.NRGBA)
	if !ok {
		n = color.NRGBAModel.Convert(c).(color.NRGBA)
	}
	return [3]byte{n.R, n.G, n.B}
}

// fromGray sets the three channels to the first byte of each pixel, which has `bytes` bytes.
func fromGray(out, pixels []byte, stride, width, bytes int) {
	for ; len(out) > 0; pixels = pixels[min(stride, len(pixels)):] {
		for x := range width {
			out[0], out[1], out[2] = pixels[x*bytes], pixels[x*bytes], pixels[x*bytes]
			out = out[3:]
		}
	}
}

func fromPalette(out []byte, img *image.Paletted) {
	// A damaged file can use colours outside its palette; they are black.
	var colours [256][3]byte
	for i, c := range img.Palette {
		colours[i] = rgb(c)
	}
	bounds := img.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		row := img.Pix[img.PixOffset(bounds.Min.X, y):][:bounds.Dx()]
		for _, index := range row {
			copy(out, colours[index][:])
			out = out[3:]
		}
	}
}

// highBytes reduces 16 bits per channel to the upper 8, as Pillow does. The pixels have four big-endian channels and rows
// without padding.
func highBytes(out, pixels []byte) {
	for ; len(out) > 0; out, pixels = out[3:], pixels[8:] {
		out[0], out[1], out[2] = pixels[0], pixels[2], pixels[4]
	}
}

// fromWebP converts a lossy WebP's samples to RGB as libwebp does, bit for bit. VP8 uses the limited range of ITU-R BT.601
// (luma 16 to 235), while Go's image.YCbCr assumes the full range. libwebp also smooths the chroma, with weights of 9:3:3:1
// for the four nearest samples. The numbers are BT.601's in 14-bit fixed point.
func fromWebP(out []byte, img *image.YCbCr) {
	width, height := img.Rect.Dx(), img.Rect.Dy()
	chromaRows := (height + 1) / 2
	for y := range height {
		near := y / 2
		far := min(max(near-1+2*(y&1), 0), chromaRows-1)
		luma := img.Y[y*img.YStride:]
		cbNear, cbFar := img.Cb[near*img.CStride:], img.Cb[far*img.CStride:]
		crNear, crFar := img.Cr[near*img.CStride:], img.Cr[far*img.CStride:]
		for x := range width {
			cb := chroma(cbNear, cbFar, x, width)
			cr := chroma(crNear, crFar, x, width)
			light := int(luma[x]) * 19077 >> 8
			out[0] = clip(light + cr*26149>>8 - 14234)
			out[1] = clip(light - cb*6419>>8 - cr*13320>>8 + 8708)
			out[2] = clip(light + cb*33050>>8 - 17685)
			out = out[3:]
		}
	}
}

// chroma returns the smoothed chroma sample of pixel x, from the nearer and the farther row of samples.
func chroma(near, far []byte, x, width int) int {
	at := x / 2
	n, v := int(near[at]), int(far[at])
	if x == 0 || x == width-1 && width%2 == 0 { // no neighbour on that side
		return (3*n + v + 2) >> 2
	}
	beside := at - 1 + 2*(x&1)
	h, d := int(near[beside]), int(far[beside])
	return ((n+h+v+d+8+2*(h+v))>>3 + n) >> 1
}

// clip drops the six fractional bits of the sums above and clamps the result.
func clip(value int) byte { return byte(min(max(value>>6, 0), 255)) }

package tune

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io"
	"math"
	"net/http"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// MaxPSNR stands for every higher value. The PSNR of equal images is infinite, which JSON can't encode. In dB.
const MaxPSNR = 100

// pixels is an image as 8-bit RGBA.
type pixels = *image.NRGBA

// fetch sends an image and returns the pixels of the response, which it requests as PNG because JPEG loses some.
func fetch(ctx context.Context, url string, body []byte) (pixels, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"?format=png", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", loadgen.ContentType(body))
	client := http.Client{Timeout: requestTimeout}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
		return nil, fmt.Errorf("status %s: %s", response.Status, bytes.TrimSpace(text))
	}
	decoded, err := png.Decode(response.Body)
	if err != nil {
		return nil, fmt.Errorf("decode the response: %w", err)
	}
	converted := image.NewNRGBA(decoded.Bounds())
	draw.Draw(converted, converted.Rect, decoded, decoded.Bounds().Min, draw.Src)
	return converted, nil
}

// psnr returns the peak signal-to-noise ratio of two images over red, green and blue, in dB, at most MaxPSNR.
func psnr(a, b pixels) (float64, error) {
	if a.Rect != b.Rect {
		return 0, fmt.Errorf("the response is %v pixels large, with %s %v", a.Rect.Size(), fp32, b.Rect.Size())
	}
	sum, count := 0.0, 0
	for i := range a.Pix {
		if i%4 == 3 { // alpha
			continue
		}
		difference := float64(a.Pix[i]) - float64(b.Pix[i])
		sum += difference * difference
		count++
	}
	return min(MaxPSNR, 10*math.Log10(255*255*float64(count)/sum)), nil
}

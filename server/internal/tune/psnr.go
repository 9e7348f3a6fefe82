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
)

// MaxPSNR stands for all that is higher, that of equal pictures too, which is infinite. In dB.
const MaxPSNR = 100

// pixels is a picture as 8-bit RGBA.
type pixels = *image.NRGBA

// answerTo is a server's answer to a picture, without JPEG's losses.
func answerTo(ctx context.Context, url string, picture []byte) (pixels, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"?format=png", bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: requestTimeout}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
		return nil, fmt.Errorf("answered %s: %s", response.Status, bytes.TrimSpace(text))
	}
	answer, err := png.Decode(response.Body)
	if err != nil {
		return nil, fmt.Errorf("the answer as a PNG: %w", err)
	}
	as := image.NewNRGBA(answer.Bounds())
	draw.Draw(as, as.Rect, answer, answer.Bounds().Min, draw.Src)
	return as, nil
}

// psnr is the peak signal-to-noise ratio of a picture's red, green and blue beside another one's, in dB, MaxPSNR at
// most.
func psnr(a, b pixels) (float64, error) {
	if a.Rect != b.Rect {
		return 0, fmt.Errorf("the answer has %v pixels and that of %s %v", a.Rect.Size(), fp32, b.Rect.Size())
	}
	sum, count := 0.0, 0
	for i := range a.Pix {
		if i%4 == 3 { // opaque
			continue
		}
		difference := float64(a.Pix[i]) - float64(b.Pix[i])
		sum += difference * difference
		count++
	}
	return min(MaxPSNR, 10*math.Log10(255*255*float64(count)/sum)), nil
}

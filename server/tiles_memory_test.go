//go:build !race

// The race detector's memory is much larger than the server's.

package main

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
)

// gradientJPEG returns a large JPEG with soft colours.
func gradientJPEG(t *testing.T, width, height int) []byte {
	t.Helper()
	img := image.NewYCbCr(image.Rect(0, 0, width, height), image.YCbCrSubsampleRatio420)
	for i := range img.Y {
		img.Y[i] = uint8(64 + 128*(i%width)/width)
	}
	for i := range img.Cb {
		img.Cb[i], img.Cr[i] = 100, uint8(64+128*i/len(img.Cb))
	}
	var file bytes.Buffer
	if err := jpeg.Encode(&file, img, nil); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// expectTilesMemory sends a large photograph to a model whose output is scale times as large as its input, and checks the
// peak of the server's memory: the pixels of the image and of the result, and not what the model takes for all of them.
func expectTilesMemory(t *testing.T, width, height, scale int) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), fmt.Sprint("scale", scale))
	goldens.ScriptAt(t, folder+"/1/model.pt", fmt.Sprintf(`
    y = torch.avg_pool2d(x, [3, 3], [1, 1], [1, 1])
    return torch.upsample_nearest2d(y, None, [%d., %d.])
`, scale, scale))
	putSettings(t, folder, "size: keep\ntile: 512\n")
	s := startProcess(t, "--log-level", "error", "--max-upload", "64MiB", "--request-timeout", "0s", folder)
	_, small := noise(t, 100, 100)
	expectImage(t, s.put(small))
	idle := s.memory("VmHWM")
	r := s.put(gradientJPEG(t, width, height))
	if r.status != http.StatusOK {
		t.Fatalf("scale %d: got %d %s", scale, r.status, r.body)
	}
	config, err := jpeg.DecodeConfig(bytes.NewReader(r.body))
	if err != nil || config.Width != scale*width || config.Height != scale*height {
		t.Errorf("scale %d: the result is %dx%d, %v", scale, config.Width, config.Height, err)
	}
	sent, result := int64(3*width*height), int64(3*width*height*scale*scale)
	used := s.memory("VmHWM") - idle
	t.Logf("%dx%d, scale %d: %d MiB above idle, %d MiB of them pixels", width, height, scale, used/mib, (sent+result)/mib)
	// The encoder's buffer can be as large as the result. The rest is for the tiles of two batches and for garbage. The model's
	// tensors of the whole image would take at least four times as much as its pixels, and as those of the result.
	if most := sent + 2*result + 192*mib; used > most {
		t.Errorf("scale %d: the peak is %d MiB above idle, want at most %d MiB", scale, used/mib, most/mib)
	}
}

func TestMemoryOfTilesIsBounded(t *testing.T) {
	t.Parallel()
	expectTilesMemory(t, 4000, 3000, 1)
	expectTilesMemory(t, 3000, 2000, 2)
}

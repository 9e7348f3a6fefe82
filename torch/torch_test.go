package torch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

func load(t testing.TB, name string) *torch.Module {
	t.Helper()
	m, err := torch.Load(goldens.Path("modules/"+name), torch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// forward runs a batch of images and reads the output.
func forward(m *torch.Module, batch torch.Images, alloc func(size int) []byte) (torch.Images, error) {
	output, err := m.ForwardImages(batch)
	if err != nil {
		return torch.Images{}, err
	}
	return output.Read(alloc)
}

// expectSame checks that two modules have the same output for a batch, byte for byte.
func expectSame(t *testing.T, name string, m, reference *torch.Module, batch torch.Images) {
	t.Helper()
	got, err := forward(m, batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := forward(reference, batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got.Items, want.Items, bytes.Equal) {
		t.Errorf("%s: the output for %d images of %dx%d differs from the reference", name, len(batch.Items), batch.Width, batch.Height)
	}
}

func expectKind(t *testing.T, err error, kind torch.Kind) {
	t.Helper()
	var failure *torch.Error
	if !errors.Is(err, kind) || !errors.As(err, &failure) || failure.Kind != kind {
		t.Errorf("got error %v, want %q", err, kind)
	}
}

func TestVersions(t *testing.T) {
	if v := torch.Version(); !strings.HasPrefix(v, "2.") {
		t.Errorf("the version of LibTorch is %q", v)
	}
	if v := torch.JPEGVersion(); len(strings.Split(v, ".")) != 3 {
		t.Errorf("the version of libjpeg-turbo is %q", v)
	}
}

func TestAPIVersion(t *testing.T) {
	for _, test := range []struct {
		major, minor, wantMajor, wantMinor uint32
		text                               string
	}{
		{1, 2, 1, 2, ""},
		{1, 3, 1, 2, ""},
		{1, 1, 1, 2, "libtorchherd has API version 1.1, and this program needs 1.2 or a later 1.x: build both"},
		{2, 2, 1, 2, "libtorchherd has API version 2.2, and this program needs 1.2 or a later 1.x: build both"},
		{0, 9, 1, 2, "libtorchherd has API version 0.9, and this program needs 1.2 or a later 1.x: build both"},
	} {
		err := torch.CheckAPIVersion(test.major, test.minor, test.wantMajor, test.wantMinor)
		if test.text == "" {
			if err != nil {
				t.Errorf("library %d.%d, program %d.%d: %v", test.major, test.minor, test.wantMajor, test.wantMinor, err)
			}
			continue
		}
		expectKind(t, err, torch.ErrInternal)
		if err != nil && !strings.Contains(err.Error(), test.text) {
			t.Errorf("error %q doesn't contain %q", err, test.text)
		}
	}
}

func TestThreads(t *testing.T) {
	before := torch.NumThreads()
	defer func() { _ = torch.SetNumThreads(before) }()
	if err := torch.SetNumThreads(1); err != nil || torch.NumThreads() != 1 {
		t.Errorf("the number of threads is %d instead of 1, %v", torch.NumThreads(), err)
	}
	expectKind(t, torch.SetNumThreads(0), torch.ErrInvalidArgument)
}

func TestDevices(t *testing.T) {
	for name, want := range map[string]string{"cpu": "cpu", "cuda": "cuda:0", "cuda:1": "cuda:1"} {
		if d, err := torch.NewDevice(name); err != nil || d.String() != want {
			t.Errorf("%q is %v, %v", name, d, err)
		}
	}
	for _, name := range []string{"", "cpu:0", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:999999"} {
		_, err := torch.NewDevice(name)
		expectKind(t, err, torch.ErrDevice)
	}
	if err := torch.CPU.Available(); err != nil {
		t.Error(err)
	}
}

func TestWithoutCUDA(t *testing.T) {
	device, err := torch.NewDevice("cuda:0")
	if err != nil {
		t.Fatal(err)
	}
	if device.Available() == nil {
		t.Skip("this machine has a CUDA device")
	}
	expectKind(t, device.Available(), torch.ErrDevice)
	_, err = torch.Load(goldens.Path("modules/negate.pt"), torch.Options{Device: device})
	expectKind(t, err, torch.ErrDevice)
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]torch.Kind{
		filepath.Join(dir, "absent.pt"):        torch.ErrNotFound,
		empty:                                  torch.ErrNotAModule,
		dir:                                    torch.ErrNotAModule,
		goldens.Path("modules/garbage.pt"):     torch.ErrNotAModule,
		goldens.Path("modules/truncated.pt"):   torch.ErrNotAModule,
		goldens.Path("modules/checkpoint.pth"): torch.ErrNotAModule,
		goldens.Path("pictures/jpeg-420.jpg"):  torch.ErrNotAModule,
	} {
		m, err := torch.Load(path, torch.Options{})
		expectKind(t, err, want)
		if m != nil {
			t.Errorf("%s: Load returned a module and an error", path)
		}
		if err != nil && want == torch.ErrNotAModule && strings.Contains(err.Error(), "frame #0") {
			t.Errorf("%s: the error contains a stack trace: %v", path, err)
		}
		if content, readErr := os.ReadFile(path); readErr == nil {
			_, err = torch.NewBytes(content).Load(torch.Options{})
			expectKind(t, err, torch.ErrNotAModule)
		}
	}
	_, err := torch.Load(filepath.Join(dir, "absent.pt"), torch.Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error of a missing file isn't fs.ErrNotExist: %v", err)
	}
	_, err = torch.Load(goldens.Path("modules/checkpoint.pth"), torch.Options{})
	if err == nil || !strings.Contains(err.Error(), "torchherd_tools export") {
		t.Errorf("the error of a checkpoint doesn't say what to do: %v", err)
	}
}

func TestInfo(t *testing.T) {
	m := load(t, "needs_four.pt")
	info := m.Info()
	if len(info.Inputs) != 1 || !strings.Contains(info.Inputs[0], "Tensor") || info.Device != torch.CPU {
		t.Errorf("info: %+v", info)
	}
	if info.Parameters == 0 || info.Bytes < 4*info.Parameters {
		t.Errorf("%d parameters of %d bytes", info.Parameters, info.Bytes)
	}
}

func TestForward(t *testing.T) {
	content, err := os.ReadFile(goldens.Path("modules/negate.pt"))
	if err != nil {
		t.Fatal(err)
	}
	fromBytes, err := torch.NewBytes(content).Load(torch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fromBytes.Close() }()
	for _, m := range []*torch.Module{load(t, "negate.pt"), fromBytes} {
		batch, err := torch.FromFloat32([]float32{0, 0.25, 1, 2, -1, 0.5}, 2, 3, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		output, err := m.Forward(batch)
		if err != nil {
			t.Fatal(err)
		}
		values, err := output.Float32s()
		if err != nil || !slices.Equal(values, []float32{1, 0.75, 0, -1, 2, 0.5}) || !slices.Equal(output.Shape, []int64{2, 3, 1, 1}) {
			t.Errorf("%v %v, %v", output.Shape, values, err)
		}
	}
}

func TestForwardErrors(t *testing.T) {
	zeros := func(shape ...int64) *torch.Tensor {
		size := int64(4)
		for _, side := range shape {
			size *= side
		}
		return &torch.Tensor{DType: torch.Float32, Shape: shape, Data: make([]byte, size)}
	}
	tests := []struct {
		name, module string
		input        *torch.Tensor
		want         torch.Kind
	}{
		{"wrong channels", "needs_four.pt", zeros(1, 3, 8, 8), torch.ErrForward},
		{"wrong dimensions", "needs_four.pt", zeros(2), torch.ErrForward},
		{"wrong dtype for the module", "double.pt", zeros(1, 3, 8, 8), torch.ErrForward},
		{"exception of the module", "no_batch_two.pt", zeros(2, 3, 4, 4), torch.ErrForward},
		{"tuple as output", "not_a_tensor.pt", zeros(1, 3, 4, 4), torch.ErrOutput},
		{"empty batch", "negate.pt", zeros(0, 3, 4, 4), torch.ErrShape},
		{"no dimension", "negate.pt", &torch.Tensor{DType: torch.Float32, Data: make([]byte, 4)}, torch.ErrShape},
		{"nine dimensions", "negate.pt", zeros(1, 1, 1, 1, 1, 1, 1, 1, 1), torch.ErrShape},
		{"missing data", "negate.pt", &torch.Tensor{DType: torch.Float32, Shape: []int64{2}, Data: make([]byte, 4)}, torch.ErrShape},
		{"negative side", "negate.pt", &torch.Tensor{DType: torch.Float32, Shape: []int64{-1}}, torch.ErrShape},
		{"overflowing shape", "negate.pt", &torch.Tensor{DType: torch.Float32, Shape: []int64{math.MaxInt64, 8}}, torch.ErrShape},
		{"unknown dtype", "negate.pt", &torch.Tensor{DType: 99, Shape: []int64{1}, Data: make([]byte, 4)}, torch.ErrDType},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := load(t, test.module)
			_, err := m.Forward(test.input)
			expectKind(t, err, test.want)
		})
	}
	_, err := load(t, "no_batch_two.pt").Forward(zeros(2, 3, 4, 4))
	if err == nil || !strings.Contains(err.Error(), "two") {
		t.Errorf("error %v doesn't contain the module's message", err)
	}
	if _, err := torch.FromFloat32([]float32{1}, 2); !errors.Is(err, torch.ErrShape) {
		t.Errorf("FromFloat32: %v", err)
	}
	if _, err := (&torch.Tensor{DType: torch.Uint8, Shape: []int64{1}, Data: []byte{1}}).Float32s(); !errors.Is(err, torch.ErrDType) {
		t.Errorf("Float32s: %v", err)
	}
}

func TestClose(t *testing.T) {
	m := load(t, "negate.pt")
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	batch, err := torch.FromFloat32([]float32{1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Forward(batch)
	expectKind(t, err, torch.ErrClosed)
	_, err = forward(m, torch.Images{Height: 1, Width: 1, Channels: 3, Items: [][]byte{{1, 2, 3}}}, nil)
	expectKind(t, err, torch.ErrClosed)
	if m.Info().Inputs == nil {
		t.Error("Info is empty after Close")
	}
}

func TestStack(t *testing.T) {
	a, _ := torch.FromFloat32([]float32{1, 2}, 2)
	b, _ := torch.FromFloat32([]float32{3, 4}, 2)
	stacked, err := torch.Stack([]*torch.Tensor{a, b})
	if err != nil {
		t.Fatal(err)
	}
	values, err := stacked.Float32s()
	if err != nil || !slices.Equal(values, []float32{1, 2, 3, 4}) || !slices.Equal(stacked.Shape, []int64{2, 2}) {
		t.Errorf("%v %v, %v", stacked.Shape, values, err)
	}
	long, _ := torch.FromFloat32([]float32{1, 2, 3}, 3)
	bytes := &torch.Tensor{DType: torch.Uint8, Shape: []int64{2}, Data: []byte{1, 2}}
	for _, test := range []struct {
		items []*torch.Tensor
		want  torch.Kind
	}{{nil, torch.ErrShape}, {[]*torch.Tensor{a, long}, torch.ErrShape}, {[]*torch.Tensor{a, bytes}, torch.ErrDType}} {
		_, err := torch.Stack(test.items)
		expectKind(t, err, test.want)
	}
}

func TestForwardImages(t *testing.T) {
	m := load(t, "negate.pt")
	batch := torch.Images{Height: 2, Width: 3, Channels: 3}
	for seed := range uint32(5) {
		batch.Items = append(batch.Items, goldens.Noise(seed, 18))
	}
	sizes := []int{}
	out, err := forward(m, batch, func(size int) []byte {
		sizes = append(sizes, size)
		return make([]byte, size)
	})
	if err != nil {
		t.Fatal(err)
	}
	if out.Height != 2 || out.Width != 3 || out.Channels != 3 || !slices.Equal(sizes, []int{18, 18, 18, 18, 18}) {
		t.Errorf("%dx%d of %d channels, allocated %v", out.Width, out.Height, out.Channels, sizes)
	}
	for i, item := range out.Items {
		for k, value := range item {
			// torchvision's arithmetic in float32: (1 - v/255) * 255, truncated.
			want := byte((1 - float32(batch.Items[i][k])/255) * 255)
			if value != want {
				t.Fatalf("image %d, byte %d: %d instead of %d", i, k, value, want)
			}
		}
	}
}

func TestForwardImagesShapes(t *testing.T) {
	pixel := torch.Images{Height: 1, Width: 1, Channels: 3, Items: [][]byte{{0, 30, 255}}}
	for name, want := range map[string]torch.Images{
		"upscale2.pt":     {Height: 2, Width: 2, Channels: 3, Items: [][]byte{{0, 30, 255, 0, 30, 255, 0, 30, 255, 0, 30, 255}}},
		"gray.pt":         {Height: 1, Width: 1, Channels: 1, Items: [][]byte{{95}}},
		"out_of_range.pt": {Height: 1, Width: 1, Channels: 3, Items: [][]byte{{0, 0, 255}}},
		"nan.pt":          {Height: 1, Width: 1, Channels: 3, Items: [][]byte{{0, 0, 0}}},
	} {
		got, err := forward(load(t, name), pixel, nil)
		if err != nil || got.Height != want.Height || got.Width != want.Width || got.Channels != want.Channels ||
			!slices.Equal(got.Items[0], want.Items[0]) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, want := range map[string]torch.Kind{
		"two_channels.pt": torch.ErrOutput, "wrong_count.pt": torch.ErrOutput, "not_a_tensor.pt": torch.ErrOutput,
		"needs_four.pt": torch.ErrForward, "fails_on_black.pt": torch.ErrForward,
	} {
		black := torch.Images{Height: 2, Width: 2, Channels: 3, Items: [][]byte{make([]byte, 12), make([]byte, 12)}}
		_, err := forward(load(t, name), black, nil)
		expectKind(t, err, want)
	}
	m := load(t, "negate.pt")
	for name, bad := range map[string]torch.Images{
		"no images":      {Height: 1, Width: 1, Channels: 3},
		"no size":        {Channels: 3, Items: [][]byte{{}}},
		"four channels":  {Height: 1, Width: 1, Channels: 4, Items: [][]byte{{1, 2, 3, 4}}},
		"too few pixels": {Height: 1, Width: 2, Channels: 3, Items: [][]byte{{1, 2, 3}}},
	} {
		if _, err := forward(m, bad, nil); !errors.Is(err, torch.ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Many goroutines, on any threads, use one module.
func TestConcurrentForwards(t *testing.T) {
	m := load(t, "negate.pt")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				value := byte(g*50+i) % 251
				out, err := forward(m, torch.Images{Height: 1, Width: 1, Channels: 3, Items: [][]byte{{value, 0, 255}}}, nil)
				if err != nil || out.Items[0][1] != 255 || out.Items[0][2] != 0 {
					t.Errorf("%v, %v", out.Items, err)
				}
			}
		})
	}
	wg.Wait()
}

// The output of the bundled model is within 1e-5 of PyTorch's.
func TestForwardEqualsPyTorch(t *testing.T) {
	golden := goldens.Load(t).Forward
	m, err := torch.Load(goldens.Path("../models/photo2ink/model.pt"), torch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	output, err := m.Forward(&torch.Tensor{DType: torch.Float32, Shape: golden.Shape, Data: goldens.Read(t, "goldens/"+golden.Input)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := output.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	want := goldens.Read(t, "goldens/"+golden.Output)
	if len(want) != 4*len(got) {
		t.Fatalf("%d values instead of %d", len(got), len(want)/4)
	}
	largest := 0.0
	for i, value := range got {
		expected := math.Float32frombits(binary.LittleEndian.Uint32(want[4*i:]))
		largest = max(largest, math.Abs(float64(value-expected)))
	}
	t.Logf("largest difference: %.2g", largest)
	if !(largest <= 1e-5) {
		t.Errorf("the output differs from PyTorch's by %g", largest)
	}
}

// Every pixel equals Pillow's.
func TestResizeEqualsPillow(t *testing.T) {
	for _, c := range goldens.Load(t).Resize.Cases {
		filter, err := torch.NewFilter(c.Filter)
		if err != nil {
			t.Fatal(err)
		}
		source := goldens.Noise(c.Seed, c.Width*c.Height*3)
		pixels := make([]byte, c.OutWidth*c.OutHeight*3)
		if err := torch.Resize(source, c.Width, c.Height, 3, torch.Upright, filter, c.OutWidth, c.OutHeight, pixels); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(pixels); hex.EncodeToString(sum[:]) != c.Output {
			t.Errorf("%v, %dx%d to %dx%d: differs from Pillow's", filter, c.Width, c.Height, c.OutWidth, c.OutHeight)
		}
		// The fourth channel is ignored.
		four := make([]byte, 0, c.Width*c.Height*4)
		for i := 0; i < len(source); i += 3 {
			four = append(four, source[i], source[i+1], source[i+2], byte(i))
		}
		again := make([]byte, len(pixels))
		if err := torch.Resize(four, c.Width, c.Height, 4, torch.Upright, filter, c.OutWidth, c.OutHeight, again); err != nil || !slices.Equal(pixels, again) {
			t.Errorf("%v, %dx%d with a fourth channel: differs, %v", filter, c.Width, c.Height, err)
		}
	}
}

// orient applies an EXIF orientation, pixel by pixel.
func orient(source []byte, width, height int, o torch.Orientation) []byte {
	outWidth, outHeight := width, height
	if o.SwapsSides() {
		outWidth, outHeight = height, width
	}
	out := make([]byte, 0, len(source))
	for y := range outHeight {
		for x := range outWidth {
			sx, sy := x, y
			switch o {
			case 2:
				sx = width - 1 - x
			case 3:
				sx, sy = width-1-x, height-1-y
			case 4:
				sy = height - 1 - y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, height-1-x
			case 7:
				sx, sy = width-1-y, height-1-x
			case 8:
				sx, sy = width-1-y, x
			}
			at := 3 * (sy*width + sx)
			out = append(out, source[at:at+3]...)
		}
	}
	return out
}

// Resize with an orientation equals Resize of an oriented image, for every filter and orientation, and for sizes that
// grow, shrink and stay the same.
func TestResizeWithOrientation(t *testing.T) {
	for _, size := range [][4]int{{7, 5, 7, 5}, {5, 7, 5, 7}, {90, 61, 20, 31}, {9, 6, 40, 50}, {300, 2, 11, 12}, {1, 1, 3, 2}, {64, 33, 33, 64}} {
		for _, filter := range filters {
			for o := torch.Orientation(1); o <= 8; o++ {
				expectOrientedResize(t, size, filter, o)
			}
		}
	}
}

func expectOrientedResize(t *testing.T, size [4]int, filter torch.Filter, o torch.Orientation) {
	t.Helper()
	width, height, outWidth, outHeight := size[0], size[1], size[2], size[3]
	source := goldens.Noise(uint32(width), width*height*3)
	got := make([]byte, outWidth*outHeight*3)
	if err := torch.Resize(source, width, height, 3, o, filter, outWidth, outHeight, got); err != nil {
		t.Fatal(err)
	}
	orientedWidth, orientedHeight := width, height
	if o.SwapsSides() {
		orientedWidth, orientedHeight = height, width
	}
	want := make([]byte, len(got))
	if err := torch.Resize(orient(source, width, height, o), orientedWidth, orientedHeight, 3, torch.Upright, filter, outWidth, outHeight, want); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, %v, orientation %d: differs from resizing the oriented image", size, filter, o)
	}
}

func TestImageErrors(t *testing.T) {
	jpeg := goldens.Read(t, "pictures/jpeg-420.jpg")
	pixels := make([]byte, 228*228*3)
	expectKind(t, torch.DecodeJPEG(t.Context(), nil, torch.DecodeOptions{}, 228, 228, pixels), torch.ErrBadImage)
	expectKind(t, torch.DecodeJPEG(t.Context(), []byte("no image"), torch.DecodeOptions{}, 228, 228, pixels), torch.ErrBadImage)
	expectKind(t, torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{MaxPixels: 59999}, 228, 228, pixels), torch.ErrTooManyPixels)
	expectKind(t, torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{Orientation: 9}, 228, 228, pixels), torch.ErrInvalidArgument)
	expectKind(t, torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{}, 228, 227, pixels), torch.ErrShape)
	expectKind(t, torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{}, 0, 0, nil), torch.ErrShape)
	expectKind(t, torch.DecodeJPEG(t.Context(), goldens.Read(t, "pictures/jpeg-gray.jpg"), torch.DecodeOptions{}, 228, 228, pixels), torch.ErrNotRGB)
	if err := torch.DecodeJPEG(t.Context(), jpeg, torch.DecodeOptions{MaxPixels: 60000}, 228, 228, pixels); err != nil {
		t.Errorf("an image of exactly the limit: %v", err)
	}
	_, err := torch.ReadJPEGHeader(jpeg[:10])
	expectKind(t, err, torch.ErrBadImage)
	expectKind(t, torch.Resize(pixels, 228, 228, 2, torch.Upright, torch.Bilinear, 228, 228, pixels), torch.ErrShape)
	expectKind(t, torch.Resize(pixels, 228, 228, 3, 0, torch.Bilinear, 1, 1, make([]byte, 3)), torch.ErrInvalidArgument)
	_, err = torch.EncodeJPEG(pixels, 228, 228, 3, 101, make([]byte, 1000))
	expectKind(t, err, torch.ErrInvalidArgument)
	_, err = torch.EncodeJPEG(pixels, 228, 228, 3, 75, make([]byte, 100))
	expectKind(t, err, torch.ErrInvalidArgument)
	_, err = torch.EncodeJPEG(pixels, 228, 228, 3, 75, nil)
	expectKind(t, err, torch.ErrInvalidArgument)
	_, err = torch.EncodeJPEG(pixels, 228, 227, 3, 75, make([]byte, 1000))
	expectKind(t, err, torch.ErrShape)
	for _, size := range [][3]int{{0, 1, 3}, {65501, 1, 3}, {1, 1, 2}, {1 << 40, 1, 3}} {
		if bound := torch.JPEGBound(size[0], size[1], size[2]); bound != 0 {
			t.Errorf("the bound of %v is %d", size, bound)
		}
	}
}

// A Resizer gives the pixels of Resize, however many rows it takes at a time, and refuses more rows than there are.
func TestResizerTakesRows(t *testing.T) {
	const width, height, outWidth, outHeight = 61, 47, 33, 90
	source := goldens.Noise(3, width*height*4)
	for _, filter := range filters {
		want := make([]byte, outWidth*outHeight*3)
		if err := torch.Resize(source, width, height, 4, torch.Upright, filter, outWidth, outHeight, want); err != nil {
			t.Fatal(err)
		}
		for _, rows := range []int{1, 3, 4, height} {
			got := make([]byte, len(want))
			r, err := torch.NewResizer(width, height, torch.Upright, filter, outWidth, outHeight, got)
			if err != nil {
				t.Fatal(err)
			}
			for y := 0; y < height; y += rows {
				n := min(rows, height-y)
				if err := r.Push(source[4*width*y:][:4*width*n], n, 4); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%v, %d rows at a time: differs", filter, rows)
			}
			expectKind(t, r.Push(source[:4*width], 1, 4), torch.ErrInvalidArgument)
			r.Close()
			r.Close()
			expectKind(t, r.Push(source[:4*width], 1, 4), torch.ErrClosed)
		}
	}
	_, err := torch.NewResizer(0, 1, torch.Upright, torch.Bilinear, 1, 1, make([]byte, 3))
	expectKind(t, err, torch.ErrShape)
}

// The estimate of a resize grows with its sizes, and keeps to small numbers where a filter spans the whole source.
func TestEstimateResize(t *testing.T) {
	small, err := torch.EstimateResize(100, 100, torch.Upright, torch.Lanczos, 50, 50)
	if err != nil {
		t.Fatal(err)
	}
	large, err := torch.EstimateResize(1000, 1000, torch.Upright, torch.Lanczos, 50, 50)
	if err != nil || large.Memory <= small.Memory || large.Products <= small.Products || large.Weights <= small.Weights {
		t.Errorf("%+v after %+v, %v", large, small, err)
	}
	line, err := torch.EstimateResize(9000, 9000, torch.Upright, torch.Lanczos, 9000, 1)
	if limit := int64(4 * 9000 * 9000); err != nil || line.Memory > limit {
		t.Errorf("%+v takes more than %d bytes, %v", line, limit, err)
	}
	_, err = torch.EstimateResize(torch.MaxSide+1, 1, torch.Upright, torch.Lanczos, 1, 1)
	expectKind(t, err, torch.ErrInvalidArgument)
}

// The blocks of all scans are limited, and the header tells how many the first has.
func TestDecodeJPEGLimitsItsScans(t *testing.T) {
	pixels := make([]byte, 8*8*3)
	for _, test := range []struct {
		name     string
		scans    int64 // of the file, as far as they matter
		buffered bool
	}{{"jpeg-444.jpg", 1, false}, {"jpeg-progressive.jpg", 2, true}} {
		jpeg := goldens.Read(t, "pictures/"+test.name)
		header, err := torch.ReadJPEGHeader(jpeg)
		if err != nil || header.Buffered != test.buffered || header.Arithmetic || header.Blocks < int64(header.Width*header.Height/64) {
			t.Fatalf("%s: %+v, %v", test.name, header, err)
		}
		options := torch.DecodeOptions{MaxBlocks: test.scans*(header.Blocks+torch.JPEGScanBlocks) - 1}
		err = torch.DecodeJPEG(t.Context(), jpeg, options, 8, 8, pixels)
		expectKind(t, err, torch.ErrTooMuchWork)
		if err != nil && !strings.Contains(err.Error(), fmt.Sprintf("scans of %dx%d pixels", header.Width, header.Height)) {
			t.Error(err)
		}
		options.MaxBlocks = 100 * header.Blocks
		if err := torch.DecodeJPEG(t.Context(), jpeg, options, 8, 8, pixels); err != nil {
			t.Error(err)
		}
	}
}

func TestDecodeJPEGEndsWithItsContext(t *testing.T) {
	left := errors.New("left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(left)
	err := torch.DecodeJPEG(ctx, goldens.Read(t, "pictures/jpeg-large.jpg"), torch.DecodeOptions{}, 8, 8, make([]byte, 8*8*3))
	if !errors.Is(err, left) {
		t.Error(err)
	}
}

// Noise compresses worst; the bound must hold for it at the highest quality.
func TestJPEGBound(t *testing.T) {
	for _, size := range [][2]int{{1, 1}, {8, 8}, {17, 1}, {1, 17}, {100, 60}, {228, 228}} {
		for _, channels := range []int{1, 3} {
			pixels := goldens.Noise(1, size[0]*size[1]*channels)
			out := make([]byte, torch.JPEGBound(size[0], size[1], channels))
			n, err := torch.EncodeJPEG(pixels, size[0], size[1], channels, 100, out)
			if err != nil || n > len(out) {
				t.Errorf("%v with %d channels: %d bytes, %v", size, channels, n, err)
			}
			header, err := torch.ReadJPEGHeader(out[:n])
			if err != nil || header.Width != size[0] || header.Height != size[1] || header.Channels != channels {
				t.Errorf("%v with %d channels reads as %+v, %v", size, channels, header, err)
			}
		}
	}
}

// A scaled decode is close to a full decode if the image is at least twice the requested size, and equals it otherwise.
func TestScaledDecode(t *testing.T) {
	decode := func(name string, scaled bool, side int) []byte {
		pixels := make([]byte, side*side*3)
		if err := torch.DecodeJPEG(t.Context(), goldens.Read(t, "pictures/"+name), torch.DecodeOptions{Scaled: scaled}, side, side, pixels); err != nil {
			t.Fatal(err)
		}
		return pixels
	}
	for _, name := range []string{"jpeg-large.jpg", "jpeg-progressive.jpg", "jpeg-portrait.jpg", "exif-6.jpg", "jpeg-cmyk.jpg", "jpeg-228.jpg"} {
		psnr := goldens.PSNR(decode(name, false, 32), decode(name, true, 32))
		if psnr < 30 || math.IsInf(psnr, 1) {
			t.Errorf("%s: PSNR to the full decode is %.1f dB", name, psnr)
		}
	}
	if !bytes.Equal(decode("jpeg-228.jpg", false, 115), decode("jpeg-228.jpg", true, 115)) {
		t.Error("an image of less than twice the size is decoded differently")
	}
}

// A batch norm that was traced in training mode computes statistics of its input. Freezing folds it into the convolution by
// other statistics, so such a module isn't frozen.
func TestABatchNormInTrainingKeepsItsStatistics(t *testing.T) {
	m := load(t, "batch_norm_in_training.pt")
	const side = 8
	batch := torch.Images{Height: side, Width: side, Channels: 3, Items: [][]byte{make([]byte, side*side*3)}}
	pixels := batch.Items[0]
	for i := range pixels {
		pixels[i] = byte(40 + i%97)
	}
	if err := m.CheckFinite(batch); err != nil {
		t.Fatal(err)
	}
	got, err := forward(m, batch, func(size int) []byte { return make([]byte, size) })
	if err != nil {
		t.Fatal(err)
	}
	for channel := range 3 {
		var sum, squares float64
		for i := channel; i < len(pixels); i += 3 {
			y := float64(pixels[i]) / 255 / 2
			sum, squares = sum+y, squares+y*y
		}
		mean := sum / (side * side)
		deviation := math.Sqrt(squares/(side*side) - mean*mean + 1e-5)
		for i := channel; i < len(pixels); i += 3 {
			want := min(max((float64(pixels[i])/255/2-mean)/deviation, 0), 1) * 255
			if difference := float64(got.Items[0][i]) - want; difference > 0.5 || difference < -1.5 {
				t.Fatalf("value %d is %d, want %.2f", i, got.Items[0][i], want)
			}
		}
	}
}

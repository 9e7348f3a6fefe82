package torch_test

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/torch"
)

// The tests that need a CUDA device; `make gpu-check` runs them. Their names begin with TestCUDA.

var (
	modelFile = flag.String("model", goldens.Path("../models/photo2ink/model.pt"),
		"the TorchScript file whose answers on CUDA are compared with those on the CPU")
	packageFiles = flag.String("packages", "",
		"files of the same model compiled for CUDA, separated by commas")
)

// cuda is a CUDA device, or skips the test.
func cuda(t testing.TB, name string) torch.Device {
	t.Helper()
	device, err := torch.NewDevice(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Available(); err != nil {
		t.Skip(err)
	}
	return device
}

// loadOn loads a model's file. A library without CUDA graphs skips the test.
func loadOn(t testing.TB, path string, options torch.Options) *torch.Module {
	t.Helper()
	m, err := torch.Load(path, options)
	if options.CUDAGraphs && err != nil && strings.Contains(err.Error(), "CUDA graphs can't be made") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// packages are the flag's files; none skip the test.
func packages(t *testing.T) []string {
	t.Helper()
	if *packageFiles == "" {
		t.Skip("no packages for CUDA; make them by models/export.py --format pt2 --device cuda and name them by -packages")
	}
	return strings.Split(*packageFiles, ",")
}

// photographs are two pictures of 228x228 and noise.
func photographs(t *testing.T) torch.Images {
	t.Helper()
	batch := torch.Images{Height: 228, Width: 228, Channels: 3}
	for _, name := range []string{"jpeg-large.input.png", "jpeg-portrait.input.png"} {
		batch.Items = append(batch.Items, goldens.RGB(t, name))
	}
	batch.Items = append(batch.Items, goldens.Noise(7, 228*228*3))
	return batch
}

// floats are a batch as the model gets it.
func floats(t *testing.T, batch torch.Images) *torch.Tensor {
	t.Helper()
	plane := batch.Height * batch.Width
	values := make([]float32, 0, len(batch.Items)*3*plane)
	for _, item := range batch.Items {
		for channel := range 3 {
			for i := range plane {
				values = append(values, float32(item[3*i+channel])/255)
			}
		}
	}
	tensor, err := torch.FromFloat32(values, int64(len(batch.Items)), 3, int64(batch.Height), int64(batch.Width))
	if err != nil {
		t.Fatal(err)
	}
	return tensor
}

// expectNear compares an answer with the CPU's in float32: fp32 by values, the others by pixels.
func expectNear(t *testing.T, m, reference *torch.Module, batch torch.Images) {
	t.Helper()
	if m.Info().Precision == torch.FP32 {
		expectValues(t, m, reference, floats(t, batch))
	}
	want, err := forward(reference, batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := forward(m, batch, nil)
	if err != nil {
		t.Fatal(err)
	}
	const least = 35 // dB
	for i := range want.Items {
		kept := goldens.PSNR(got.Items[i], want.Items[i])
		t.Logf("%v, picture %d: %.1f dB", m.Info().Precision, i, kept)
		if kept < least {
			t.Errorf("%v, picture %d: %.1f dB of the CPU's, wanted %d", m.Info().Precision, i, kept, least)
		}
	}
}

func expectValues(t *testing.T, m, reference *torch.Module, input *torch.Tensor) {
	t.Helper()
	var values [2][]float32
	for i, module := range []*torch.Module{reference, m} {
		output, err := module.Forward(input)
		if err != nil {
			t.Fatal(err)
		}
		if values[i], err = output.Float32s(); err != nil {
			t.Fatal(err)
		}
	}
	const most = 1e-3
	largest := float32(0)
	for i, want := range values[0] {
		// Written so that NaN, for which no comparison holds, fails.
		if difference := max(values[1][i]-want, want-values[1][i]); !(difference <= largest) {
			largest = difference
		}
	}
	t.Logf("fp32: largest difference %.2g", largest)
	if !(largest <= most) {
		t.Errorf("fp32 differs from the CPU's by %g, wanted %g", largest, most)
	}
}

func TestCUDAParity(t *testing.T) {
	device := cuda(t, "cuda:0")
	reference := loadOn(t, *modelFile, torch.Options{})
	for _, precision := range []torch.Precision{torch.FP32, torch.TF32, torch.BF16, torch.FP16} {
		t.Run(precision.String(), func(t *testing.T) {
			m := loadOn(t, *modelFile, torch.Options{Device: device, Precision: precision})
			if info := m.Info(); info.Device != device || info.Precision != precision {
				t.Errorf("the module says of itself %+v", info)
			}
			expectNear(t, m, reference, photographs(t))
		})
	}
}

func TestCUDAPackages(t *testing.T) {
	device := cuda(t, "cuda:0")
	reference := loadOn(t, *modelFile, torch.Options{})
	for _, path := range packages(t) {
		for _, graphs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/graphs=%v", filepath.Base(path), graphs), func(t *testing.T) {
				folder := t.TempDir()
				m := loadOn(t, path, torch.Options{Device: device, CUDAGraphs: graphs, PackageFolder: folder})
				for range 4 { // a graph is made in the third
					expectNear(t, m, reference, photographs(t))
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				expectEmpty(t, folder)
				_, err := torch.Load(path, torch.Options{PackageFolder: folder})
				expectKind(t, err, torch.ErrDevice)
				expectEmpty(t, folder)
			})
		}
	}
}

func TestCUDARefusesAPackageForTheCPU(t *testing.T) {
	folder := t.TempDir()
	_, err := torch.Load(goldens.Path("modules/negate.pt2"), torch.Options{Device: cuda(t, "cuda:0"), PackageFolder: folder})
	expectKind(t, err, torch.ErrDevice)
	expectEmpty(t, folder)
}

// sizes are batches of many shapes, odd ones among them.
func sizes() []torch.Images {
	var batches []torch.Images
	for _, size := range [][2]int{{1, 1}, {2, 3}, {7, 5}, {24, 32}, {31, 333}, {228, 228}, {480, 640}} {
		for _, count := range []int{1, 2, 5} {
			batches = append(batches, pictures(count, size[0], size[1]))
		}
	}
	return batches
}

// The way of the pixels to the device and back gives the very values that the CPU's has.
func TestCUDAPixels(t *testing.T) {
	device := cuda(t, "cuda:0")
	for _, name := range []string{"negate.pt", "identity.pt", "upscale2.pt", "out_of_range.pt", "nan.pt"} {
		m := loadOn(t, goldens.Path("modules/"+name), torch.Options{Device: device})
		reference := load(t, name)
		for _, batch := range sizes() {
			expectSame(t, name, m, reference, batch)
		}
	}
}

// Values of every kind come out as on the CPU, in batches' graphs too.
func TestCUDAValues(t *testing.T) {
	device := cuda(t, "cuda:0")
	settings := allValues()
	settings["gray"] = torch.Values{Channels: torch.Gray, Mean: [3]float64{0.5}, Std: [3]float64{0.5}, Output: torch.Range{Low: -1, High: 1}}
	for name, values := range settings {
		reference := loadOn(t, goldens.Path("modules/identity.pt"), torch.Options{Values: values})
		for _, graphs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/graphs=%v", name, graphs), func(t *testing.T) {
				m := loadOn(t, goldens.Path("modules/identity.pt"), torch.Options{Device: device, Values: values, CUDAGraphs: graphs})
				for range 4 { // a graph is made in the third
					expectSame(t, name, m, reference, pictures(3, 31, 33))
				}
				if err := m.CheckFinite(pictures(1, 8, 8)); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// With graphs and without, each batch has the same answer: while a shape gets warm, when its graph is made, and in
// replays with other pictures, among those of other shapes.
func TestCUDAGraphs(t *testing.T) {
	device := cuda(t, "cuda:0")
	for _, precision := range []torch.Precision{torch.FP32, torch.BF16} {
		plain := loadOn(t, *modelFile, torch.Options{Device: device, Precision: precision})
		graphs := loadOn(t, *modelFile, torch.Options{Device: device, Precision: precision, CUDAGraphs: true})
		for round := range 6 {
			for count := 1; count <= 4; count++ {
				batch := torch.Images{Height: 96, Width: 128, Channels: 3}
				for i := range count {
					batch.Items = append(batch.Items, goldens.Noise(uint32(100*round+i), 96*128*3))
				}
				want, err := forward(plain, batch, nil)
				if err != nil {
					t.Fatal(err)
				}
				got, err := forward(graphs, batch, nil)
				if err != nil {
					t.Fatal(err)
				}
				for i := range want.Items {
					// Other algorithms may be chosen, which round otherwise; another picture's answer is far away.
					if kept := goldens.PSNR(got.Items[i], want.Items[i]); kept < 35 {
						t.Errorf("%v, round %d, picture %d of %d: %.1f dB", precision, round, i, count, kept)
					}
				}
			}
		}
	}
}

// fails_on_black asks for a value of its input, for which no recording can wait; it runs without a graph, and a batch
// that fails takes no other with it.
func TestCUDAGraphsOfAModelThatCannotBeRecorded(t *testing.T) {
	m := loadOn(t, goldens.Path("modules/fails_on_black.pt"), torch.Options{Device: cuda(t, "cuda:0"), CUDAGraphs: true})
	for range 5 {
		batch := pictures(2, 8, 8)
		got, err := forward(m, batch, nil)
		if err != nil || !slices.EqualFunc(got.Items, batch.Items, slices.Equal) {
			t.Errorf("%v, %v", got.Items, err)
		}
		_, err = forward(m, torch.Images{Height: 8, Width: 8, Channels: 3, Items: [][]byte{make([]byte, 192), make([]byte, 192)}}, nil)
		expectKind(t, err, torch.ErrForward)
	}
}

// More shapes than graphs are kept for.
func TestCUDAGraphsOfManyShapes(t *testing.T) {
	m := loadOn(t, goldens.Path("modules/identity.pt"), torch.Options{Device: cuda(t, "cuda:0"), CUDAGraphs: true})
	for range 4 {
		for width := 1; width <= 100; width++ {
			batch := pictures(1, 3, width)
			got, err := forward(m, batch, nil)
			if err != nil || !slices.Equal(got.Items[0], batch.Items[0]) {
				t.Fatalf("width %d: %v", width, err)
			}
		}
	}
}

// Several batches are under way, and their answers are read in another order, after the module was closed.
func TestCUDAAnswersOutOfOrderAndAfterClose(t *testing.T) {
	device := cuda(t, "cuda:0")
	for _, graphs := range []bool{false, true} {
		t.Run(fmt.Sprintf("graphs=%v", graphs), func(t *testing.T) {
			m := loadOn(t, goldens.Path("modules/negate.pt"), torch.Options{Device: device, CUDAGraphs: graphs})
			var answers []*torch.Answer
			var batches []torch.Images
			for i := range 6 {
				batch := torch.Images{Height: 480, Width: 640, Channels: 3, Items: [][]byte{goldens.Noise(uint32(i), 480*640*3)}}
				answer, err := m.ForwardImages(batch)
				if err != nil {
					t.Fatal(err)
				}
				batches, answers = append(batches, batch), append(answers, answer)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			reference := load(t, "negate.pt")
			for _, i := range []int{1, 0, 3, 2, 5, 4} {
				got, err := answers[i].Read(nil)
				if err != nil {
					t.Fatal(err)
				}
				want, err := forward(reference, batches[i], nil)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got.Items[0], want.Items[0]) {
					t.Errorf("batch %d has another's answer", i)
				}
			}
		})
	}
}

// Instances on threads of their own, with graphs made at the same time as others allocate and read.
func TestCUDAInstancesSideBySide(t *testing.T) {
	device := cuda(t, "cuda:0")
	for _, graphs := range []bool{false, true} {
		loadOn(t, goldens.Path("modules/negate.pt"), torch.Options{Device: device, CUDAGraphs: graphs})
		var wg sync.WaitGroup
		for instance := range 4 {
			wg.Go(func() {
				m, err := torch.Load(goldens.Path("modules/negate.pt"), torch.Options{Device: device, CUDAGraphs: graphs})
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = m.Close() }()
				for round := range 60 {
					batch := pictures(1+round%5, 40+round%3, 50+instance)
					got, err := forward(m, batch, nil)
					if err != nil {
						t.Errorf("instance %d, round %d: %v", instance, round, err)
						return
					}
					for i, item := range got.Items {
						if item[0] != negated(batch.Items[i][0]) || item[len(item)-1] != negated(batch.Items[i][len(item)-1]) {
							t.Errorf("instance %d, round %d: not its own answer", instance, round)
						}
					}
				}
			})
		}
		wg.Wait()
	}
}

// negated is what negate.pt makes of a byte, by torchvision's arithmetic in float32.
func negated(value byte) byte { return byte((1 - float32(value)/255) * 255) }

func TestCUDAErrors(t *testing.T) {
	device := cuda(t, "cuda:0")
	for name, want := range map[string]torch.Kind{
		"two_channels.pt": torch.ErrOutput, "wrong_count.pt": torch.ErrOutput, "not_a_tensor.pt": torch.ErrOutput,
		"needs_four.pt": torch.ErrForward, "double.pt": torch.ErrForward, "no_batch_two.pt": torch.ErrForward,
	} {
		m := loadOn(t, goldens.Path("modules/"+name), torch.Options{Device: device})
		for range 3 {
			_, err := forward(m, pictures(2, 8, 8), nil)
			expectKind(t, err, want)
		}
	}
	m := loadOn(t, goldens.Path("modules/no_batch_two.pt"), torch.Options{Device: device})
	if _, err := forward(m, pictures(2, 8, 8), nil); err == nil {
		t.Error("a batch of two was no error")
	}
	if _, err := forward(m, pictures(3, 8, 8), nil); err != nil {
		t.Errorf("after an error: %v", err)
	}
}

// Not only the first device, and no device that isn't there.
func TestSecondCUDADevice(t *testing.T) {
	absent, err := torch.NewDevice("cuda:100")
	if err != nil {
		t.Fatal(err)
	}
	expectKind(t, absent.Available(), torch.ErrDevice)
	device := cuda(t, "cuda:1")
	reference := loadOn(t, *modelFile, torch.Options{})
	for _, graphs := range []bool{false, true} {
		m := loadOn(t, *modelFile, torch.Options{Device: device, CUDAGraphs: graphs})
		for range 4 {
			expectNear(t, m, reference, photographs(t))
		}
	}
}

// The bare forward: batches on their way to the device, on it and on their way back at the same time, as in the
// server, and nothing else. -model and -packages say of what; `bench/gpu.py` reads it.
func BenchmarkCUDAForward(b *testing.B) {
	device := cuda(b, "cuda:0")
	files := []string{*modelFile}
	if *packageFiles != "" {
		files = append(files, strings.Split(*packageFiles, ",")...)
	}
	for _, path := range files {
		precisions := map[string]torch.Precision{"fp32": torch.FP32, "bf16": torch.BF16}
		if strings.HasSuffix(path, ".pt2") {
			precisions = map[string]torch.Precision{"compiled": torch.FP32} // the only one that a package takes
		}
		for name, precision := range precisions {
			for _, graphs := range []bool{false, true} {
				for _, size := range []int{1, 4, 8, 16, 32} {
					b.Run(fmt.Sprintf("model=%s/precision=%s/graphs=%v/batch=%d", filepath.Base(path), name, graphs, size), func(b *testing.B) {
						m := loadOn(b, path, torch.Options{Device: device, Precision: precision, CUDAGraphs: graphs, PackageFolder: b.TempDir()})
						benchmarkForward(b, m, pictures(size, 228, 228))
					})
				}
			}
		}
	}
}

func benchmarkForward(b *testing.B, m *torch.Module, batch torch.Images) {
	var memory [][]byte
	for range batch.Items {
		memory = append(memory, make([]byte, len(batch.Items[0])))
	}
	read := func(answer *torch.Answer) {
		next := 0
		_, err := answer.Read(func(int) []byte { next++; return memory[next-1] })
		if err != nil {
			b.Error(err)
		}
	}
	run := func() *torch.Answer {
		answer, err := m.ForwardImages(batch)
		if err != nil {
			b.Fatal(err)
		}
		return answer
	}
	for range 5 {
		read(run())
	}
	start, batches := time.Now(), 0
	before := run()
	for b.Loop() {
		answer := run()
		read(before)
		before = answer
		batches++
	}
	read(before)
	b.ReportMetric(float64((batches+1)*len(batch.Items))/time.Since(start).Seconds(), "pictures/s")
}

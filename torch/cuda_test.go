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

// These tests need a CUDA device; `make gpu-check` runs them by the prefix TestCUDA.

var (
	modelFile = flag.String("model", goldens.Path("../models/photo2ink/model.pt"),
		"the TorchScript file whose outputs on CUDA are compared with those on the CPU")
	packageFiles = flag.String("packages", "",
		"packages of the same model that were compiled for CUDA, separated by commas")
)

// cuda returns a CUDA device, or skips the test if the machine lacks it.
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

// loadOn loads a model file. It skips the test if the library lacks CUDA graphs.
func loadOn(t testing.TB, path string, options torch.Options) *torch.Module {
	t.Helper()
	m, err := torch.Load(path, options)
	if options.CUDAGraphs && err != nil && strings.Contains(err.Error(), "CUDA graphs are not available") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// packages returns the files of the flag -packages, or skips the test if there are none.
func packages(t *testing.T) []string {
	t.Helper()
	if *packageFiles == "" {
		t.Skip("no packages for CUDA; make them with torchherd_tools export --format pt2 --device cuda and pass them with -packages")
	}
	return strings.Split(*packageFiles, ",")
}

// photographs returns two photographs and noise, in 228x228.
func photographs(t *testing.T) torch.Images {
	t.Helper()
	batch := torch.Images{Height: 228, Width: 228, Channels: 3}
	for _, name := range []string{"jpeg-large.input.png", "jpeg-portrait.input.png"} {
		batch.Items = append(batch.Items, goldens.RGB(t, name))
	}
	batch.Items = append(batch.Items, goldens.Noise(7, 228*228*3))
	return batch
}

// floats converts a batch to the model's input.
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

// expectNear compares a module's output with the float32 output of the CPU: fp32 by values, the others by pixels.
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
	const minimum = 35 // dB
	for i := range want.Items {
		psnr := goldens.PSNR(got.Items[i], want.Items[i])
		t.Logf("%v, image %d: %.1f dB", m.Info().Precision, i, psnr)
		if psnr < minimum {
			t.Errorf("%v, image %d: PSNR to the CPU's is %.1f dB, want at least %d", m.Info().Precision, i, psnr, minimum)
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
	const maximum = 1e-3
	largest := float32(0)
	for i, want := range values[0] {
		// Every comparison with NaN is false, so NaN fails.
		if difference := max(values[1][i]-want, want-values[1][i]); !(difference <= largest) {
			largest = difference
		}
	}
	t.Logf("fp32: largest difference %.2g", largest)
	if !(largest <= maximum) {
		t.Errorf("fp32 differs from the CPU's by %g, want at most %g", largest, maximum)
	}
}

func TestCUDAParity(t *testing.T) {
	device := cuda(t, "cuda:0")
	reference := loadOn(t, *modelFile, torch.Options{})
	for _, precision := range []torch.Precision{torch.FP32, torch.TF32, torch.BF16, torch.FP16} {
		t.Run(precision.String(), func(t *testing.T) {
			m := loadOn(t, *modelFile, torch.Options{Device: device, Precision: precision})
			if info := m.Info(); info.Device != device || info.Precision != precision {
				t.Errorf("info: %+v", info)
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
				dir := t.TempDir()
				m := loadOn(t, path, torch.Options{Device: device, CUDAGraphs: graphs, PackageFolder: dir})
				for range 4 { // the third run records a graph
					expectNear(t, m, reference, photographs(t))
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				expectEmpty(t, dir)
				_, err := torch.Load(path, torch.Options{PackageFolder: dir})
				expectKind(t, err, torch.ErrDevice)
				expectEmpty(t, dir)
			})
		}
	}
}

func TestCUDARefusesAPackageForTheCPU(t *testing.T) {
	dir := t.TempDir()
	_, err := torch.Load(goldens.Path("modules/negate.pt2"), torch.Options{Device: cuda(t, "cuda:0"), PackageFolder: dir})
	expectKind(t, err, torch.ErrDevice)
	expectEmpty(t, dir)
}

// sizes returns batches of many shapes, some of them odd.
func sizes() []torch.Images {
	var batches []torch.Images
	for _, size := range [][2]int{{1, 1}, {2, 3}, {7, 5}, {24, 32}, {31, 333}, {228, 228}, {480, 640}} {
		for _, count := range []int{1, 2, 5} {
			batches = append(batches, images(count, size[0], size[1]))
		}
	}
	return batches
}

// The conversions of pixels on the device equal those on the CPU.
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

// Every kind of Values gives the pixels of the CPU, with graphs too.
func TestCUDAValues(t *testing.T) {
	device := cuda(t, "cuda:0")
	settings := allValues()
	settings["gray"] = torch.Values{Channels: torch.Gray, Mean: [3]float64{0.5}, Std: [3]float64{0.5}, Output: torch.Range{Low: -1, High: 1}}
	for name, values := range settings {
		reference := loadOn(t, goldens.Path("modules/identity.pt"), torch.Options{Values: values})
		for _, graphs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/graphs=%v", name, graphs), func(t *testing.T) {
				m := loadOn(t, goldens.Path("modules/identity.pt"), torch.Options{Device: device, Values: values, CUDAGraphs: graphs})
				for range 4 { // the third run records a graph
					expectSame(t, name, m, reference, images(3, 31, 33))
				}
				if err := m.CheckFinite(images(1, 8, 8)); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A module with graphs has the outputs of one without: while a shape warms up, when its graph is recorded, and in
// replays with other images, between batches of other shapes.
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
					// Other algorithms may round differently; the output of another image differs far more.
					if psnr := goldens.PSNR(got.Items[i], want.Items[i]); psnr < 35 {
						t.Errorf("%v, round %d, image %d of %d: %.1f dB", precision, round, i, count, psnr)
					}
				}
			}
		}
	}
}

// fails_on_black waits for a value of its input, which can't be recorded, so it runs without a graph. A failed batch
// doesn't affect others.
func TestCUDAGraphsOfAModelThatCannotBeRecorded(t *testing.T) {
	m := loadOn(t, goldens.Path("modules/fails_on_black.pt"), torch.Options{Device: cuda(t, "cuda:0"), CUDAGraphs: true})
	for range 5 {
		batch := images(2, 8, 8)
		got, err := forward(m, batch, nil)
		if err != nil || !slices.EqualFunc(got.Items, batch.Items, slices.Equal) {
			t.Errorf("%v, %v", got.Items, err)
		}
		_, err = forward(m, torch.Images{Height: 8, Width: 8, Channels: 3, Items: [][]byte{make([]byte, 192), make([]byte, 192)}}, nil)
		expectKind(t, err, torch.ErrForward)
	}
}

// There are more shapes than graphs.
func TestCUDAGraphsOfManyShapes(t *testing.T) {
	m := loadOn(t, goldens.Path("modules/identity.pt"), torch.Options{Device: cuda(t, "cuda:0"), CUDAGraphs: true})
	for range 4 {
		for width := 1; width <= 100; width++ {
			batch := images(1, 3, width)
			got, err := forward(m, batch, nil)
			if err != nil || !slices.Equal(got.Items[0], batch.Items[0]) {
				t.Fatalf("width %d: %v", width, err)
			}
		}
	}
}

// Several batches run at the same time, and their outputs are read in another order, after the module is closed.
func TestCUDAReadsOutOfOrderAndAfterClose(t *testing.T) {
	device := cuda(t, "cuda:0")
	for _, graphs := range []bool{false, true} {
		t.Run(fmt.Sprintf("graphs=%v", graphs), func(t *testing.T) {
			m := loadOn(t, goldens.Path("modules/negate.pt"), torch.Options{Device: device, CUDAGraphs: graphs})
			var outputs []*torch.Answer
			var batches []torch.Images
			for i := range 6 {
				batch := torch.Images{Height: 480, Width: 640, Channels: 3, Items: [][]byte{goldens.Noise(uint32(i), 480*640*3)}}
				output, err := m.ForwardImages(batch)
				if err != nil {
					t.Fatal(err)
				}
				batches, outputs = append(batches, batch), append(outputs, output)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			reference := load(t, "negate.pt")
			for _, i := range []int{1, 0, 3, 2, 5, 4} {
				got, err := outputs[i].Read(nil)
				if err != nil {
					t.Fatal(err)
				}
				want, err := forward(reference, batches[i], nil)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got.Items[0], want.Items[0]) {
					t.Errorf("batch %d has the output of another batch", i)
				}
			}
		})
	}
}

// Instances run on threads of their own, and record graphs while others allocate and read.
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
					batch := images(1+round%5, 40+round%3, 50+instance)
					got, err := forward(m, batch, nil)
					if err != nil {
						t.Errorf("instance %d, round %d: %v", instance, round, err)
						return
					}
					for i, item := range got.Items {
						if item[0] != negated(batch.Items[i][0]) || item[len(item)-1] != negated(batch.Items[i][len(item)-1]) {
							t.Errorf("instance %d, round %d: the output of another image", instance, round)
						}
					}
				}
			})
		}
		wg.Wait()
	}
}

// negated returns the output of negate.pt for a byte, by torchvision's arithmetic in float32.
func negated(value byte) byte { return byte((1 - float32(value)/255) * 255) }

func TestCUDAErrors(t *testing.T) {
	device := cuda(t, "cuda:0")
	for name, want := range map[string]torch.Kind{
		"two_channels.pt": torch.ErrOutput, "wrong_count.pt": torch.ErrOutput, "not_a_tensor.pt": torch.ErrOutput,
		"needs_four.pt": torch.ErrForward, "no_batch_two.pt": torch.ErrForward,
	} {
		m := loadOn(t, goldens.Path("modules/"+name), torch.Options{Device: device})
		for range 3 {
			_, err := forward(m, images(2, 8, 8), nil)
			expectKind(t, err, want)
		}
	}
	m := loadOn(t, goldens.Path("modules/no_batch_two.pt"), torch.Options{Device: device})
	if _, err := forward(m, images(2, 8, 8), nil); err == nil {
		t.Error("a batch of two was accepted")
	}
	if _, err := forward(m, images(3, 8, 8), nil); err != nil {
		t.Errorf("after an error: %v", err)
	}
}

// Modules run on another device than the first, and a device that doesn't exist is refused.
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

// This measures the forward alone, of the models in -model and -packages. As in the server, batches are copied to the
// device, run and copied back at the same time. torchherd_tools gpu parses the output.
func BenchmarkCUDAForward(b *testing.B) {
	device := cuda(b, "cuda:0")
	files := []string{*modelFile}
	if *packageFiles != "" {
		files = append(files, strings.Split(*packageFiles, ",")...)
	}
	for _, path := range files {
		precisions := map[string]torch.Precision{"fp32": torch.FP32, "bf16": torch.BF16}
		if strings.HasSuffix(path, ".pt2") {
			precisions = map[string]torch.Precision{"compiled": torch.FP32} // a package supports no other
		}
		for name, precision := range precisions {
			for _, graphs := range []bool{false, true} {
				for _, size := range []int{1, 4, 8, 16, 32} {
					b.Run(fmt.Sprintf("model=%s/precision=%s/graphs=%v/batch=%d", filepath.Base(path), name, graphs, size), func(b *testing.B) {
						m := loadOn(b, path, torch.Options{Device: device, Precision: precision, CUDAGraphs: graphs, PackageFolder: b.TempDir()})
						benchmarkForward(b, m, images(size, 228, 228))
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
	read := func(output *torch.Answer) {
		next := 0
		_, err := output.Read(func(int) []byte { next++; return memory[next-1] })
		if err != nil {
			b.Error(err)
		}
	}
	run := func() *torch.Answer {
		output, err := m.ForwardImages(batch)
		if err != nil {
			b.Fatal(err)
		}
		return output
	}
	for range 5 {
		read(run())
	}
	start, batches := time.Now(), 0
	previous := run()
	for b.Loop() {
		output := run()
		read(previous)
		previous = output
		batches++
	}
	read(previous)
	b.ReportMetric(float64((batches+1)*len(batch.Items))/time.Since(start).Seconds(), "pictures/s")
}

package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/loadgen"
	"github.com/torchherd/torchherd/torch"
)

// On a CUDA device, with each precision and option, the server responds like one on the CPU, responds to every request under
// load, and stops without an error.
func TestCUDA(t *testing.T) {
	device, err := torch.NewDevice("cuda:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Available(); err != nil {
		t.Skip(err)
	}
	photo := photograph(t, "jpeg-420.jpg")
	want := start(t, "--device", "cpu").pixels(photo)
	for name, flags := range map[string][]string{
		"fp32":      nil,
		"tf32":      {"--precision", "tf32"},
		"bf16":      {"--precision", "bf16"},
		"fp16":      {"--precision", "fp16"},
		"graphs":    {"--precision", "bf16", "--cuda-graphs"},
		"instances": {"--precision", "bf16", "--instances", "3", "--cuda-graphs"},
		"any size":  {"--size", "keep", "--cuda-graphs"},
	} {
		t.Run(name, func(t *testing.T) {
			flags := append([]string{"--device", "cuda:0", "--max-batch-size", "8", "--max-queue-size", "64"}, flags...)
			s := start(t, flags...)
			if on := s.app.Ready().Models[0].Device; on != "cuda:0" {
				t.Errorf("device = %v, want cuda:0", on)
			}
			if name != "any size" {
				if psnr := goldens.PSNR(s.pixels(photo), want); psnr < 35 {
					t.Errorf("PSNR with the CPU's response = %.1f dB, want at least 35", psnr)
				}
			}
			expectAllGood(t, s)
			if err := s.stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A model on the GPU and the CPU responds to every request.
func TestSeveralDevices(t *testing.T) {
	device, err := torch.NewDevice("cuda:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Available(); err != nil {
		t.Skip(err)
	}
	s := start(t, "--device", "cuda:0,cpu", "--max-queue-size", "64")
	if on := s.app.Ready().Models[0]; on.Device != "cuda:0,cpu" || on.Instances != 2 {
		t.Errorf("got %+v, want 2 instances on cuda:0,cpu", on)
	}
	expectAllGood(t, s)
}

// expectAllGood sends images of several sizes from 32 clients, and checks that every response is good.
func expectAllGood(t *testing.T, s *embedded) {
	t.Helper()
	const requests = 1000
	result, err := loadgen.Run(t.Context(), loadgen.Config{
		URL: s.url + "/image", Method: http.MethodPut, Clients: 32, Requests: requests,
		Images:   [][]byte{photograph(t, "jpeg-420.jpg"), photograph(t, "jpeg-large.jpg"), photograph(t, "exif-6.jpg")},
		Duration: limit, RequestTimeout: 10 * time.Second,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if result.Good != requests || result.Requests != requests {
		t.Errorf("%d of %d responses are good, want %d of %d: statuses %v, errors %v", result.Good, result.Requests, requests, requests, result.Statuses, result.Errors)
	}
}

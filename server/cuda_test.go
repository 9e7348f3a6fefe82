package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/torchherd/torchherd/internal/goldens"
	"github.com/torchherd/torchherd/server/internal/loadgen"
	"github.com/torchherd/torchherd/torch"
)

// The whole server on a CUDA device: under load each client gets an answer, the answers are the CPU's, and the end is in
// order.
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
				t.Errorf("serves on %v", on)
			}
			if name != "any size" {
				if kept := goldens.PSNR(s.pixels(photo), want); kept < 35 {
					t.Errorf("its answer keeps %.1f dB of the CPU's", kept)
				}
			}
			expectAllGood(t, s)
			if err := s.stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A queue's batches go to the GPU and to the CPU, whichever is free.
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
		t.Errorf("serves on %+v", on)
	}
	expectAllGood(t, s)
}

// expectAllGood sends pictures of several sizes by 32 clients.
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
		t.Errorf("%d good answers to %d requests: %v, %v", result.Good, result.Requests, result.Statuses, result.Errors)
	}
}

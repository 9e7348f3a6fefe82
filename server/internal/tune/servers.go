package tune

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/torchherd/torchherd/server/internal/loadgen"
)

// Servers is a Measurer that starts a new `torchherd serve` for each measurement. A server that changed its settings
// would not do: OpenMP's threads, the state of the allocator and other things that count stay with a process.
type Servers struct {
	Config      Config
	Program     string   // path of the torchherd command
	Environment []string // further environment variables of the servers, as NAME=value
	Images      [][]byte // sent in turn, or bodies of loadgen.Form; at least one

	reference []pixels // the fp32 responses to Images; nil until they have been fetched
}

// requestTimeout is the default of serve.
const requestTimeout = time.Minute

// Measure starts a server, measures it and stops it.
func (s *Servers) Measure(ctx context.Context, candidate Settings, progress func(loadgen.Progress)) (Measurement, error) {
	server, err := startServer(ctx, s.Program, s.Environment, s.arguments(candidate))
	if err != nil {
		return Measurement{}, err
	}
	defer server.stop()
	progress(loadgen.Progress{})
	result, err := s.send(ctx, server.url, candidate, progress)
	if err != nil {
		return Measurement{}, server.cause(err)
	}
	m := Measurement{
		ImagesPerSecond: result.Goodput, P50: result.Latency.P50, P99: result.Latency.P99,
		Threads: server.model.Threads, CUDA: strings.HasPrefix(server.model.Device, "cuda"),
		FellBehind: result.Saturation.Reason,
	}
	m.PSNR, err = s.compare(ctx, server.url, candidate.Precision)
	if err != nil {
		return Measurement{}, server.cause(err)
	}
	return m, nil
}

func (s *Servers) arguments(candidate Settings) []string {
	arguments := []string{"serve", "--listen=127.0.0.1:0", "--admin-listen=off", "--log-format=json", "--log-level=info", "--no-trial"}
	arguments = append(arguments, candidate.all()...)
	arguments = append(arguments, queueFlag(s.Config.Clients)...)
	arguments = append(arguments, s.Config.ExtraArguments...)
	if s.Config.Model != "" {
		arguments = append(arguments, "--", s.Config.Model)
	}
	return arguments
}

func queueFlag(clients int) []string {
	return []string{"--max-queue-size", strconv.Itoa(QueueSize(clients))}
}

// The minimum of a round: with fewer full batches, or fewer images of each client, the figures mean little.
const (
	minBatches         = 8
	minImagesPerClient = 2
)

// send sends one round of images. A round is a number of images, not a time, because a time would end within a batch,
// and a slow model completes only a few. The first round is as small as possible. If it took less than Config.Duration,
// it was the warm-up for a second one that takes as long.
func (s *Servers) send(
	ctx context.Context, url string, candidate Settings, progress func(loadgen.Progress),
) (*loadgen.Result, error) {
	full := min(candidate.MaxBatchSize*candidate.Instances, s.Config.Clients) // images that can be in a forward at once
	least := roundUp(max(minBatches*full, minImagesPerClient*s.Config.Clients), full)
	result, err := s.sendImages(ctx, url, least, progress)
	if err != nil || result.Seconds >= s.Config.Duration.Seconds() {
		return result, err
	}
	images := result.Goodput * s.Config.Duration.Seconds()
	return s.sendImages(ctx, url, roundUp(max(int(math.Ceil(images)), least), full), progress)
}

// roundUp returns n rounded up to a multiple of m.
func roundUp(n, m int) int { return (n + m - 1) / m * m }

// sendImages sends this many images. It returns an error if any of them failed.
func (s *Servers) sendImages(
	ctx context.Context, url string, images int, progress func(loadgen.Progress),
) (*loadgen.Result, error) {
	result, err := loadgen.Run(ctx, loadgen.Config{
		URL: url, Method: "PUT", Images: s.Images, Clients: s.Config.Clients, Requests: images,
		Duration: loadgen.MaxDuration, RequestTimeout: requestTimeout,
	}, progress)
	if err == nil && result.Good < result.Requests {
		err = fmt.Errorf("%d of %d images failed: %s", result.Requests-result.Good, result.Requests, failures(result))
	}
	return result, err
}

// failures returns the statuses and errors of the requests that failed.
func failures(result *loadgen.Result) string {
	var texts []string
	for _, status := range slices.Sorted(maps.Keys(result.Statuses)) {
		if status < 200 || status > 299 {
			texts = append(texts, fmt.Sprintf("status %d", status))
		}
	}
	return strings.Join(append(texts, slices.Sorted(maps.Keys(result.Errors))...), "; ")
}

// compare returns the lowest PSNR of a precision's responses against those of fp32, which it keeps. For fp32 it returns
// 0.
func (s *Servers) compare(ctx context.Context, url, precision string) (float64, error) {
	if precision == fp32 && s.reference != nil {
		return 0, nil
	}
	responses := make([]pixels, 0, len(s.Images))
	for _, image := range s.Images {
		response, err := fetch(ctx, url, image)
		if err != nil {
			return 0, err
		}
		responses = append(responses, response)
	}
	if precision == fp32 {
		s.reference = responses
		return 0, nil
	}
	lowest := float64(MaxPSNR)
	for i, response := range responses {
		value, err := psnr(response, s.reference[i])
		if err != nil {
			return 0, err
		}
		lowest = min(lowest, value)
	}
	return lowest, nil
}

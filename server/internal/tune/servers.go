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

// Servers measures settings on servers of its own, one after the other: each is a fresh `torchherd serve`, because much
// of what counts, such as OpenMP's threads and the allocator's state, belongs to a process and stays with it.
type Servers struct {
	Config  Config
	Program string   // torchherd
	Images  [][]byte // that are sent in turn; 1 or more

	reference []pixels // fp32's answers to the pictures; nil until a server has given them
}

// requestTimeout is serve's own default.
const requestTimeout = time.Minute

// Measure starts a server, measures it and stops it.
func (s *Servers) Measure(ctx context.Context, settings Settings, sending func(loadgen.Progress)) (Measurement, error) {
	server, err := startServer(ctx, s.Program, s.arguments(settings))
	if err != nil {
		return Measurement{}, err
	}
	defer server.stop()
	sending(loadgen.Progress{})
	result, err := s.send(ctx, server.url, settings, sending)
	if err != nil {
		return Measurement{}, server.blame(err)
	}
	m := Measurement{
		ImagesPerSecond: result.Goodput, P50: result.Latency.P50, P99: result.Latency.P99,
		Threads: server.threads, CUDA: strings.HasPrefix(server.device, "cuda"), FellBehind: result.Saturation.Reason,
	}
	m.PSNR, err = s.compare(ctx, server.url, settings.Precision)
	if err != nil {
		return Measurement{}, server.blame(err)
	}
	return m, nil
}

func (s *Servers) arguments(settings Settings) []string {
	arguments := []string{"serve", "--listen=127.0.0.1:0", "--admin-listen=off", "--log-format=json", "--log-level=info"}
	arguments = append(arguments, settings.all()...)
	arguments = append(arguments, queueFlag(s.Config.Clients)...)
	arguments = append(arguments, s.Config.Passed...)
	if s.Config.Model != "" {
		arguments = append(arguments, "--", s.Config.Model)
	}
	return arguments
}

func queueFlag(clients int) []string {
	return []string{"--max-queue-size", strconv.Itoa(QueueSize(clients))}
}

// A round has so many full batches at least, and lets each client have some turns: fewer say nothing.
const (
	leastBatches = 8
	leastTurns   = 2
)

// send sends a round of pictures. A round is a number of pictures, not a time: a time would end within a batch, which
// with a slow model's few batches is a large part of the round. A first one is as small as a round may be. If that took
// less than the duration, it was the warm-up of one that is as long.
func (s *Servers) send(
	ctx context.Context, url string, settings Settings, progress func(loadgen.Progress),
) (*loadgen.Result, error) {
	full := min(settings.MaxBatchSize*settings.Instances, s.Config.Clients) // pictures that can be in a forward at a time
	least := inFull(max(leastBatches*full, leastTurns*s.Config.Clients), full)
	result, err := s.sendImages(ctx, url, least, progress)
	if err != nil || result.Seconds >= s.Config.Duration.Seconds() {
		return result, err
	}
	pictures := result.Goodput * s.Config.Duration.Seconds()
	return s.sendImages(ctx, url, inFull(max(int(math.Ceil(pictures)), least), full), progress)
}

// inFull is a number rounded up to a multiple of full.
func inFull(n, full int) int { return (n + full - 1) / full * full }

// sendImages sends so many pictures. It is an error if any of them isn't answered well.
func (s *Servers) sendImages(
	ctx context.Context, url string, pictures int, progress func(loadgen.Progress),
) (*loadgen.Result, error) {
	result, err := loadgen.Run(ctx, loadgen.Config{
		URL: url, Method: "PUT", Images: s.Images, Clients: s.Config.Clients, Requests: pictures,
		Duration: loadgen.MaxDuration, RequestTimeout: requestTimeout,
	}, progress)
	if err == nil && result.Good < result.Requests {
		err = fmt.Errorf("%d of %d pictures failed: %s", result.Requests-result.Good, result.Requests, failures(result))
	}
	return result, err
}

// failures says what the answers were that weren't good.
func failures(result *loadgen.Result) string {
	var texts []string
	for _, status := range slices.Sorted(maps.Keys(result.Statuses)) {
		if status < 200 || status > 299 {
			texts = append(texts, fmt.Sprintf("status %d", status))
		}
	}
	return strings.Join(append(texts, slices.Sorted(maps.Keys(result.Errors))...), "; ")
}

// compare says what PSNR the answers of another precision have beside fp32's; these it keeps.
func (s *Servers) compare(ctx context.Context, url, precision string) (float64, error) {
	if precision == fp32 && s.reference != nil {
		return 0, nil
	}
	answers := make([]pixels, 0, len(s.Images))
	for _, picture := range s.Images {
		answer, err := answerTo(ctx, url, picture)
		if err != nil {
			return 0, err
		}
		answers = append(answers, answer)
	}
	if precision == fp32 {
		s.reference = answers
		return 0, nil
	}
	least := float64(MaxPSNR)
	for i, answer := range answers {
		of, err := psnr(answer, s.reference[i])
		if err != nil {
			return 0, err
		}
		least = min(least, of)
	}
	return least, nil
}

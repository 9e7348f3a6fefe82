package cpu

import "time"

// smallForward is the longest forward of one image on one thread that counts as small. Decoding and encoding an image
// takes as long or longer and keeps all cores busy when there are many images: a forward that is spread over cores then
// waits for threads that don't run, and spins meanwhile. With two cores, sixteen clients and a model that negates, one
// thread instead of two answered five times as many images.
const smallForward = 500 * time.Microsecond

// ChooseThreads returns how many threads a forward on the CPU may use: all cores, divided between the instances of the
// model, or one if the model is small. forward runs the model on one image with one thread, and is called a few times. clock
// is the processor time that this takes: ThreadTime for work on the calling thread, to which the goroutine must be locked
// then. Errors are those of forward.
func ChooseThreads(cores, instances int, clock func() time.Duration, forward func() error) (int, error) {
	threads := max(1, cores/instances)
	if threads == 1 {
		return 1, nil
	}
	// The fastest of some runs, in processor time: other processes may be using the machine right now.
	const runs, limit = 10, 20 * smallForward
	for begin, run := clock(), 0; run < runs && clock()-begin < limit; run++ {
		start := clock()
		if err := forward(); err != nil {
			return 0, err
		}
		if clock()-start < smallForward {
			return 1, nil
		}
	}
	return threads, nil
}

package metrics

// A Reason is why a request got no image. Its name is the label of a metric and a field of the log.
type Reason struct {
	Name    string
	Outcome Outcome
	Help    string // for the documentation
}

// reasons are all reasons, in the order of the documentation.
var reasons []*Reason

// Reasons returns all reasons.
func Reasons() []*Reason { return reasons }

func reason(name string, outcome Outcome, help string) *Reason {
	r := &Reason{name, outcome, help}
	reasons = append(reasons, r)
	return r
}

// The reasons of refusals: the server's state.
var (
	QueueFull  = reason("queue_full", Refused, "the queue had no place (`--max-queue-size`)")
	TooLate    = reason("too_late", Refused, "the image would have waited in the queue until after its deadline")
	Receiving  = reason("receiving", Refused, "bodies that are being received take all the memory for them (`--max-receive-memory`)")
	NotReady   = reason("not_ready", Refused, "no version of the model is ready")
	Draining   = reason("draining", Refused, "the server is shutting down")
	Hung       = reason("hung", Refused, "a forward pass of the model doesn't return")
	Restarting = reason("restarting", Refused, "the model's process ended during the image's batch, or was being started again")
)

// The reasons of rejections: the request itself.
var (
	NotFound       = reason("not_found", Rejected, "no such path, model or version")
	WrongMethod    = reason("wrong_method", Rejected, "the method isn't one of the path's")
	WrongParameter = reason("wrong_parameter", Rejected, "a parameter or a header can't be understood, or doesn't fit the model")
	WrongPart      = reason("wrong_part", Rejected, "a part of the form is missing, unknown or unusable")
	TooLarge       = reason("too_large", Rejected, "the body is larger than `--max-upload`")
	UnreadableBody = reason("unreadable_body", Rejected, "the body broke off, or its framing is wrong")
	UnknownFormat  = reason("unknown_format", Rejected, "the bytes are no image, or one of a format that isn't decoded")
	BrokenImage    = reason("broken_image", Rejected, "the image is damaged")
	Unsupported    = reason("unsupported_image", Rejected, "the image is of a kind that isn't decoded, or has colours that the model doesn't take")
	TooManyPixels  = reason("too_many_pixels", Rejected, "the image or its result has more pixels than `--max-pixels`")
	TooMuchWork    = reason("too_much_work", Rejected, "decoding the image, or enlarging its result, would take too long")
	TooMuchMemory  = reason("too_much_memory", Rejected, "decoding the image would take more memory than `--max-decode-memory`")
	TooLong        = reason("too_long", Rejected, "a side of the result is too long for its format")
	CrashesModel   = reason("crashes_model", Rejected, "the model crashes on the image, twice")
)

// The other reasons.
var (
	Deadline     = reason("deadline", Expired, "the deadline passed while the request was received, queued or processed")
	ClientClosed = reason("client_closed", Left, "the client closed the connection before its response")
	ModelFailed  = reason("model_failed", Failed, "the model's forward pass failed")
	Internal     = reason("internal", Failed, "a fault of the server; the log has it")
)

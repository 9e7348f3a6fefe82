package torch

import (
	"regexp"
	"strings"
)

// traceback is where TorchScript's interpreter begins to list the source lines of a failure; the reason comes last.
const traceback = "The following operation failed in the TorchScript interpreter."

// raised is the line of a traceback with the reason, as LibTorch writes it.
var raised = regexp.MustCompile(`(?m)^(?:[A-Za-z_][\w.]*\.)?(?:RuntimeError|Error|\w*(?:Error|Exception)): (.+)$`)

// mobile is what LibTorch says about a file of torch.jit.optimize_for_inference, whose operators can't be read back.
const mobile = "required keyword attribute 'value' is undefined"

// splitReason splits a message of LibTorch into the reason, in one line if it knows the message's form, and the traceback;
// "": none.
func splitReason(message string) (reason, trace string) {
	if strings.Contains(message, mobile) {
		return strings.TrimSpace(firstLine(message)) + ": most likely a file of torch.jit.optimize_for_inference, which PyTorch can't read back either; save the module before that call", ""
	}
	before, after, found := strings.Cut(message, traceback)
	if !found {
		return message, ""
	}
	lines := raised.FindAllStringSubmatch(after, -1)
	if len(lines) == 0 {
		return message, ""
	}
	return before + lines[len(lines)-1][1], traceback + after
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

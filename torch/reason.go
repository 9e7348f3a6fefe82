package torch

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// traceback is where TorchScript's interpreter begins to list the source lines of a failure; the reason comes last.
const traceback = "The following operation failed in the TorchScript interpreter."

var (
	// raised is the line of a traceback with the reason, as LibTorch writes it.
	raised = regexp.MustCompile(`(?m)^(?:[A-Za-z_][\w.]*\.)?(?:RuntimeError|Error|\w*(?:Error|Exception)): (.+)$`)
	// attempt begins the message of a run with images of one type, of which libtorchherd may try several.
	attempt = regexp.MustCompile(`(?m)^with an input of type \w+: `)
	// unknownOperator is what LibTorch says about an operator that isn't registered: of a module, and of a package.
	unknownOperator = regexp.MustCompile(`Unknown builtin op: (\w+)::([\w.]*\w)|Could not find schema for (\w+)::([\w.]*\w)`)
	// refusedInput is what a package says about an input that it wasn't compiled for.
	refusedInput = regexp.MustCompile(`input_handles\[(\d+)\]: (.+)`)
	refusedSize  = regexp.MustCompile(`dim value(?: is too \w+)? at (\d+), expected(?: it to be)?:? (<=|>=)? ?(\d+), but got: (\d+)`)
	refusedType  = regexp.MustCompile(`unmatched dtype, expected: \d+\(at::k(\w+)\)`)
)

// mobile is what LibTorch says about a file of torch.jit.optimize_for_inference, whose operators can't be read back.
const mobile = "required keyword attribute 'value' is undefined"

// silentPackage is what LibTorch says if a package fails that was compiled by a PyTorch whose packages don't return the reason.
const silentPackage = " API call failed at "

// A reason is a message of LibTorch, taken apart.
type reason struct {
	text  string // one line if the message's form is known
	trace string // the rest; empty: none
	wants *Dimension
}

func newReason(message string) reason {
	switch {
	case strings.Contains(message, mobile):
		return reason{text: strings.TrimSpace(firstLine(message)) + ": most likely a file of torch.jit.optimize_for_inference, which PyTorch can't read back either; save the module before that call"}
	case unknownOperator.MatchString(message):
		return lackingOperator(message)
	case strings.Contains(message, "input_handles["):
		return refusal(message)
	case strings.Contains(message, silentPackage):
		return reason{text: "forward: the package failed and doesn't say why, as packages of older PyTorch versions; most likely it takes images of another size or type, or batches of another size", trace: message}
	}
	first := message
	if attempts := attempt.FindAllStringIndex(message, 2); len(attempts) == 2 {
		first = message[:attempts[1][0]]
	}
	before, after, found := strings.Cut(first, traceback)
	if !found {
		return reason{text: message}
	}
	lines := raised.FindAllStringSubmatch(after, -1)
	if len(lines) == 0 {
		return reason{text: message}
	}
	return reason{text: before + lines[len(lines)-1][1], trace: message[len(before):]}
}

// lackingOperator explains that an operator isn't registered.
func lackingOperator(message string) reason {
	at := unknownOperator.FindStringSubmatchIndex(message)
	match := unknownOperator.FindStringSubmatch(message)
	library, name, file := match[1], match[2], strings.TrimSpace(message[:at[0]])
	if library == "" { // of a package, whose unpacked file nobody knows
		library, name, file = match[3], match[4], ""
	}
	if file != "" {
		file += " "
	}
	text := fmt.Sprintf("%sthe model uses the operator %s::%s, which PyTorch doesn't have: load the library that registers it by --operators, such as torchvision/_C_stable.so of a Python package", file, library, name)
	if library == "aten" || library == "prim" {
		text = fmt.Sprintf("%sthe model uses the operator %s::%s, which this LibTorch (%s) doesn't have: most likely another PyTorch version exported it", file, library, name, Version())
	}
	return reason{text: text, trace: message}
}

// refusal explains why a package refuses its input. If it refuses images of all types, those of the right type tell more.
func refusal(message string) reason {
	refused := refusedInput.FindAllStringSubmatch(message, -1)
	chosen := refused[0]
	for _, each := range refused {
		if !refusedType.MatchString(each[2]) {
			chosen = each
			break
		}
	}
	index, what := chosen[1], chosen[2]
	input := "input " + index
	r := reason{text: fmt.Sprintf("forward: the package refuses %s: %s", input, what), trace: message}
	if match := refusedSize.FindStringSubmatch(what); match != nil {
		limit := map[string]string{">=": "at least ", "<=": "at most ", "": ""}[match[2]]
		r.text = fmt.Sprintf("forward: the package takes %s%s for dimension %s of %s [N, C, H, W], and got %s", limit, match[3], match[1], input, match[4])
		if index == "0" {
			dimension, _ := strconv.Atoi(match[1])
			size, _ := strconv.Atoi(match[3])
			r.wants = &Dimension{dimension, size}
			if names := []string{"batches of %s%s, and this one has %s", "images of %s%s channels, and this one has %s", "images with a height of %s%s, and this one has %s", "images with a width of %s%s, and this one has %s"}; dimension < len(names) {
				r.text = "forward: the package takes " + fmt.Sprintf(names[dimension], limit, match[3], match[4])
			}
			if dimension == 0 && match[2] == ">=" {
				r.text += `: compile it with inductor_configs={"aot_inductor.check_lowerbound": False}`
			}
		}
	} else if match := refusedType.FindStringSubmatch(what); match != nil {
		r.text = fmt.Sprintf("forward: the package takes %s of the type %s only", input, match[1])
	}
	return r
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

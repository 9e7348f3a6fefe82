package torch

// KernelsRun lets the tests check GPUs that the machine doesn't have.
var KernelsRun = kernelsRun

// CheckAPIVersion lets the tests check libraries of other versions.
var CheckAPIVersion = checkAPIVersion

package torch

// Check reports whether the file can hold a model, by its first bytes and its archive's directory alone:
// nothing is loaded. Load may still fail.
//
// Errors: ErrNotAModule.
func (f *File) Check() error {
	if problem := f.problem(); problem != "" {
		return &Error{Op: "check", Kind: ErrNotAModule, Detail: f.name + ": " + problem}
	}
	return nil
}

package repository

// WhenSettled is the part of Watch that can run with a fake clock.
var WhenSettled = whenSettled

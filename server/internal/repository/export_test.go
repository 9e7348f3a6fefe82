package repository

// WhenSettled is Watch's waiting, for a clock of the test's.
var WhenSettled = whenSettled

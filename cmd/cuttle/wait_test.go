package main

import (
	"strings"
	"sync"
)

// untilLines collects what is written and tells when so many lines are there.
type untilLines struct {
	want int
	done chan struct{}

	mu    sync.Mutex // guards the rest
	text  strings.Builder
	begun chan struct{}
	told  bool
}

func (u *untilLines) first() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.begun == nil {
		u.begun = make(chan struct{})
		if u.text.Len() > 0 {
			close(u.begun)
		}
	}
	return u.begun
}

func (u *untilLines) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.text.Len() == 0 && u.begun != nil {
		close(u.begun)
	}
	u.text.Write(b)
	if strings.Count(u.text.String(), "\n") >= u.want && !u.told {
		u.told = true
		close(u.done)
	}
	return len(b), nil
}

func (u *untilLines) String() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.text.String()
}

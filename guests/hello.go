// Prints one line from Go: the runtime, a goroutine, a channel and the collector all start. Too large to keep built.
package main

import (
	"fmt"
	"runtime"
)

func main() {
	words := make(chan string)
	go func() {
		defer close(words)
		for _, word := range []string{"hello", "from", "Go"} {
			words <- word
			runtime.GC()
		}
	}()
	line := ""
	for word := range words {
		if line != "" {
			line += " "
		}
		line += word
	}
	fmt.Println(line)
}

// A static HTTP server and its client, from Go's standard library alone:
//
//	web serve ADDRESS             answers / with the peer's and its own address; /shout echoes a body
//	web load URL WORKERS REQUESTS [keep]  many goroutines, a connection for each request unless "keep"
//	web preempt URL WORKERS REQUESTS      the same beside goroutines that never yield: the runtime interrupts with SIGURG
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func serve(address string) error {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		fmt.Fprintf(w, "hello %s on %s", r.RemoteAddr, local)
	})
	http.HandleFunc("/shout", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	server := &http.Server{Addr: address}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-stop
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Shutdown(ctx)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

var spun uint64

func spin(stop *int32) {
	for atomic.LoadInt32(stop) == 0 {
		for i := uint64(0); i < 50_000_000; i++ {
			spun += i
		}
	}
}

func load(url string, workers, requests int, keep bool) error {
	transport := &http.Transport{DisableKeepAlives: !keep, MaxIdleConnsPerHost: workers}
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	var done int64
	var failed atomic.Value
	var group sync.WaitGroup
	for w := 0; w < workers; w++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < requests; i++ {
				response, err := client.Get(url)
				if err != nil {
					failed.Store(err)
					return
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				atomic.AddInt64(&done, 1)
			}
		}()
	}
	group.Wait()
	if err := failed.Load(); err != nil {
		return err.(error)
	}
	fmt.Println("done", done)
	return nil
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

func main() {
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2])
	case "load":
		err = load(os.Args[2], number(os.Args[3]), number(os.Args[4]), len(os.Args) > 5)
	case "preempt":
		runtime.GOMAXPROCS(4)
		var stop int32
		for i := 0; i < 3; i++ {
			go spin(&stop)
		}
		err = load(os.Args[2], number(os.Args[3]), number(os.Args[4]), false)
		atomic.StoreInt32(&stop, 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

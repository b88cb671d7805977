// Command probe is all that a test's pod does: it serves, asks, writes and waits.
//
//	probe serve :PORT                 HTTP; the answer is the host's name
//	probe webhook :PORT CERT KEY      an admission webhook that labels whatever it is asked about
//	probe get URL                     prints the body of an answer
//	probe lookup NAME                 prints the addresses of a name
//	probe write FILE TEXT             writes a file, then waits
//	probe wait                        waits until it is told to end
package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(words []string) error {
	if len(words) == 0 {
		words = []string{"wait"}
	}
	go endOnSignal()
	switch words[0] {
	case "serve":
		http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
			name, _ := os.Hostname()
			fmt.Fprintln(os.Stdout, request.Method, request.URL.Path)
			fmt.Fprintln(answer, name)
		})
		return http.ListenAndServe(words[1], nil)
	case "webhook":
		http.HandleFunc("/", review)
		return http.ListenAndServeTLS(words[1], words[2], words[3], nil)
	case "get":
		client := http.Client{Timeout: 10 * time.Second}
		answer, err := client.Get(words[1])
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(os.Stdout, answer.Body)
		return err
	case "lookup":
		addresses, err := net.LookupHost(words[1])
		fmt.Println(strings.Join(addresses, "\n"))
		return err
	case "write":
		if err := os.WriteFile(words[1], []byte(words[2]), 0o644); err != nil {
			return err
		}
	case "wait":
	default:
		return fmt.Errorf("probe: no such thing as %q", words[0])
	}
	select {}
}

// endOnSignal makes a first process of a container, which no signal ends by default, go at once.
func endOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	<-signals
	os.Exit(0)
}

// review allows everything and adds a label.
func review(answer http.ResponseWriter, request *http.Request) {
	var asked struct {
		Request struct {
			UID string `json:"uid"`
		} `json:"request"`
	}
	if err := json.NewDecoder(request.Body).Decode(&asked); err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
		return
	}
	patch := `[{"op":"add","path":"/metadata/labels","value":{"seen-by":"probe"}}]`
	answer.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(answer).Encode(map[string]any{
		"apiVersion": "admission.k8s.io/v1",
		"kind":       "AdmissionReview",
		"response": map[string]any{
			"uid":       asked.Request.UID,
			"allowed":   true,
			"patchType": "JSONPatch",
			"patch":     base64.StdEncoding.EncodeToString([]byte(patch)),
		},
	})
}

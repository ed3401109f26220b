// Reads lines of JSON {secret, headers, body}; says of each whether Standard Webhooks' library for Go takes it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

type message struct {
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<24)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			panic(err)
		}
		headers := http.Header{}
		for name, value := range m.Headers {
			headers.Set(name, value)
		}
		hook, err := standardwebhooks.NewWebhook(m.Secret)
		if err == nil {
			err = hook.Verify([]byte(m.Body), headers)
		}
		fmt.Println(err == nil)
	}
}

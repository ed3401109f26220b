// A gateway as a systems team writes one: net/http and franz-go. It parses, produces, waits for the acknowledgement.
// With "null": true it only answers: the generator's ceiling.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

type config struct {
	Bootstrap string `json:"bootstrap"`
	Topic     string `json:"topic"`
	Port      string `json:"port"`
	Null      bool   `json:"null"`
}

type event struct {
	Type        string          `json:"type"`
	Event       string          `json:"event"`
	UserID      string          `json:"userId"`
	AnonymousID string          `json:"anonymousId"`
	MessageID   string          `json:"messageId"`
	Properties  json.RawMessage `json:"properties"`
}

type batch struct {
	Batch []json.RawMessage `json:"batch"`
}

var ok = []byte(`{"success":true}`)

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Write(ok)
}

func record(raw []byte) (*kgo.Record, error) {
	var one event
	if err := json.Unmarshal(raw, &one); err != nil {
		return nil, err
	}
	return &kgo.Record{Key: []byte(one.UserID), Value: raw}, nil
}

func main() {
	var c config
	if err := json.Unmarshal([]byte(os.Args[1]), &c); err != nil {
		log.Fatal(err)
	}
	if c.Null {
		log.Fatal(http.ListenAndServe("127.0.0.1:"+c.Port, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			answer(w, nil)
		})))
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(c.Bootstrap),
		kgo.DefaultProduceTopic(c.Topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
	)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/v1/track", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		one, err := record(raw)
		if err != nil {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		answer(w, client.ProduceSync(r.Context(), one).FirstErr())
	})
	http.HandleFunc("/v1/batch", func(w http.ResponseWriter, r *http.Request) {
		var all batch
		if err := json.NewDecoder(r.Body).Decode(&all); err != nil {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		var wait sync.WaitGroup
		var once sync.Once
		var failed error
		wait.Add(len(all.Batch))
		for _, raw := range all.Batch {
			one, err := record(raw)
			if err != nil {
				http.Error(w, "", http.StatusBadRequest)
				return
			}
			client.Produce(context.Background(), one, func(_ *kgo.Record, err error) {
				if err != nil {
					once.Do(func() { failed = err })
				}
				wait.Done()
			})
		}
		wait.Wait()
		answer(w, failed)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+c.Port, nil))
}

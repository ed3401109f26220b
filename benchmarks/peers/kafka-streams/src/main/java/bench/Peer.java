package bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.Iterator;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The job in Kafka Streams: JSON in, the channel of its source and a count per (customer, channel) added, JSON out.
 *
 * <p>One argument, a JSON object: see benchmarks/peers/README.md. Reads "pause" and "resume" lines on standard input, so
 * that a warm JVM can wait while another contender is measured, and ends with the input.
 */
public final class Peer {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String STORE = "counts";

    private Peer() {}

    /** Adds the channel and the count to an event. */
    private static final class Counter implements FixedKeyProcessor<String, byte[], byte[]> {
        private final Map<String, String> channels;
        private FixedKeyProcessorContext<String, byte[]> context;
        private KeyValueStore<String, Long> counts;

        Counter(Map<String, String> channels) {
            this.channels = channels;
        }

        @Override
        public void init(FixedKeyProcessorContext<String, byte[]> context) {
            this.context = context;
            this.counts = context.getStateStore(STORE);
        }

        @Override
        public void process(FixedKeyRecord<String, byte[]> record) {
            try {
                ObjectNode event = (ObjectNode) JSON.readTree(record.value());
                String channel = channels.get(event.get("source").textValue());
                String key = record.key() + '|' + channel;
                Long before = counts.get(key);
                long count = before == null ? 1 : before + 1;
                counts.put(key, count);
                event.put("channel", channel);
                event.put("count", count);
                context.forward(record.withValue(JSON.writeValueAsBytes(event)));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    public static void main(String[] arguments) throws IOException {
        ObjectNode spec = (ObjectNode) JSON.readTree(arguments[0]);
        Map<String, String> channels = new HashMap<>();
        for (Iterator<String> names = spec.get("channels").fieldNames(); names.hasNext(); ) {
            String name = names.next();
            channels.put(name, spec.get("channels").get(name).textValue());
        }
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore(STORE), Serdes.String(), Serdes.Long())
                .withCachingEnabled());
        builder.stream(spec.get("input").textValue(), Consumed.with(Serdes.String(), Serdes.ByteArray()))
                .processValues(() -> new Counter(channels), STORE)
                .to(spec.get("output").textValue(), Produced.with(Serdes.String(), Serdes.ByteArray()));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings(spec));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
        streams.start();
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            if (line.equals("pause")) {
                streams.pause();
            } else if (line.equals("resume")) {
                streams.resume();
            }
        }
        System.exit(0);
    }

    private static Properties settings(ObjectNode spec) {
        Properties out = new Properties();
        out.put(StreamsConfig.APPLICATION_ID_CONFIG, spec.get("group").textValue());
        out.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, spec.get("bootstrap").textValue());
        out.put(StreamsConfig.STATE_DIR_CONFIG, spec.get("state_dir").textValue());
        out.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        out.put(
                StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
                spec.get("exactly_once").booleanValue() ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        out.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        // As the producers of all contenders; larger batches than the 16 kB of a default, as its docs advise for throughput.
        out.put(StreamsConfig.producerPrefix(ProducerConfig.ACKS_CONFIG), "all");
        out.put(StreamsConfig.producerPrefix(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG), true);
        out.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "zstd");
        out.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 512 * 1024);
        return out;
    }
}

// plain PORT           a ServerSocket with a thread for each connection; a line is answered with both addresses
// nio PORT             com.sun.net.httpserver: selectors on an IPv6 socket
// load HOST PORT COUNT lines over plain sockets, then (URL) requests over java.net.http
import com.sun.net.httpserver.HttpServer;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;

public class Web {
    static String told(InetSocketAddress peer, InetSocketAddress own) {
        return "hello " + peer.getAddress().getHostAddress() + " on " + own.getAddress().getHostAddress() + " " + own.getPort();
    }

    static void plain(int port) throws Exception {
        var pool = Executors.newCachedThreadPool();
        try (var listener = new ServerSocket(port)) {
            System.out.println("listening");
            while (true) {
                Socket socket = listener.accept();
                pool.execute(() -> {
                    try (socket) {
                        socket.setTcpNoDelay(true);
                        socket.setKeepAlive(true);
                        socket.setSoTimeout(10000);
                        var in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
                        for (String line; (line = in.readLine()) != null;) {
                            var peer = (InetSocketAddress) socket.getRemoteSocketAddress();
                            var own = (InetSocketAddress) socket.getLocalSocketAddress();
                            socket.getOutputStream().write((told(peer, own) + " " + line + "\n").getBytes());
                        }
                    } catch (Exception error) {
                        error.printStackTrace();
                    }
                });
            }
        }
    }

    static void nio(int port) throws Exception {
        var server = HttpServer.create(new InetSocketAddress(port), 0);
        server.createContext("/", exchange -> {
            byte[] body = (told(exchange.getRemoteAddress(), exchange.getLocalAddress()) + "\n").getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
        System.out.println("listening");
    }

    static void lines(String host, int port, int count) throws Exception {
        for (int i = 0; i < count; i++) {
            try (var socket = new Socket()) {
                socket.setTcpNoDelay(true);
                socket.connect(new InetSocketAddress(host, port), 10000);
                socket.setSoTimeout(10000);
                socket.getOutputStream().write((i + "\n").getBytes());
                var line = new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine();
                if (!line.endsWith(" " + i)) throw new IllegalStateException(line);
                if (i == 0) System.out.println(line);
            }
        }
        System.out.println("done " + count);
    }

    static void requests(String url, int count) throws Exception {
        var client = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).version(HttpClient.Version.HTTP_1_1).build();
        var pending = new ArrayList<CompletableFuture<HttpResponse<String>>>();
        for (int i = 0; i < count; i++) {
            var request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(15)).build();
            pending.add(client.sendAsync(request, HttpResponse.BodyHandlers.ofString()));
        }
        for (var one : pending) if (one.get().statusCode() != 200) throw new IllegalStateException();
        System.out.print(pending.get(0).get().body());
        System.out.println("done " + count);
    }

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "plain" -> plain(Integer.parseInt(args[1]));
            case "nio" -> nio(Integer.parseInt(args[1]));
            case "lines" -> lines(args[1], Integer.parseInt(args[2]), Integer.parseInt(args[3]));
            case "requests" -> requests(args[1], Integer.parseInt(args[2]));
        }
        if (args[0].equals("lines") || args[0].equals("requests")) System.exit(0);
    }
}
